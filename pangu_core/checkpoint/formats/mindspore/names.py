"""The original's parameter names, in every generation, and which of its matrices lie transposed.

MindSpore keeps Q, K, V as [out, in] like we do, but the projection and both MLP matrices as
[in, out]. Every importer and exporter of the original's files reads this table.
"""

import re
from collections.abc import Iterable
from typing import Final

from pangu_core.checkpoint.manifest import MODEL, MOMENTS, key_of

# The first spelling is the released files'; the second is the later MindSpore model's, the third
# the training code's, which the original renames when it merges.
_TOP: Final[dict[str, tuple[str, ...]]] = {
    "word_embedding.weight": (
        "backbone.word_embedding.embedding_table",
        "backbone.embedding.word_embedding.embedding_table",
        "embedding_table",
    ),
    "position_embedding.weight": (
        "backbone.position_embedding.embedding_table",
        "backbone.embedding.position_embedding.embedding_table",
        "backbone.embedding.embedding.position_embedding.embedding_table",
    ),
    "query_embedding.weight": (
        "backbone.top_query_embedding.embedding_table",
        "backbone.top_query_embedding_table",
    ),
    "ln_f.weight": ("backbone.layernorm.gamma",),
    "ln_f.bias": ("backbone.layernorm.beta",),
}
_LAYER: Final = {
    "ln1.weight": "layernorm1.gamma",
    "ln1.bias": "layernorm1.beta",
    "attention.query.weight": "attention.dense1.weight",
    "attention.query.bias": "attention.dense1.bias",
    "attention.key.weight": "attention.dense2.weight",
    "attention.key.bias": "attention.dense2.bias",
    "attention.value.weight": "attention.dense3.weight",
    "attention.value.bias": "attention.dense3.bias",
    "attention.output.weight": "attention.projection.weight",
    "attention.output.bias": "attention.projection.bias",
    "ln2.weight": "layernorm2.gamma",
    "ln2.bias": "layernorm2.beta",
    "mlp.up.weight": "output.mapping.weight",
    "mlp.up.bias": "output.mapping.bias",
    "mlp.down.weight": "output.projection.weight",
    "mlp.down.bias": "output.projection.bias",
}
_TRANSPOSED: Final = ("attention.output.weight", "mlp.up.weight", "mlp.down.weight")
_PREFIXES: Final = {"model": "", "exp_avg": "adam_m.", "exp_avg_sq": "adam_v."}

_OURS_TOP: Final = {spelling: ours for ours, row in _TOP.items() for spelling in row}
_OURS_LAYER: Final = {theirs: ours for ours, theirs in _LAYER.items()}
_BLOCK: Final = re.compile(r"backbone\.blocks\.(0|[1-9]\d{0,17})\.")
_QUERY_LAYER: Final = "backbone.top_query_layer."
# The 200B graph's own names: its blocks lie outside the backbone.
_PIPELINE: Final = re.compile(
    r"(?:adam_[mv]\.)?(?:blocks\.\d+\.|backbone\.pangu_alpha_embedding\.)"
)


def original_name(parameter: str) -> str:
    """The released files' name of one of our parameters.

    Raises:
        KeyError: the name is no parameter of the model.
    """
    if parameter in _TOP:
        return _TOP[parameter][0]
    prefix, _, rest = parameter.partition(".")
    if prefix == "query_layer":
        return f"{_QUERY_LAYER}{_LAYER[rest]}"
    index, _, rest = rest.partition(".")
    return f"backbone.blocks.{index}.{_LAYER[rest]}"


def original_of_key(key: str) -> str:
    """The released files' name of a tensor by our key, moments too.

    Raises:
        KeyError: the key is of no tensor of the model.
    """
    group, _, parameter = key.partition("/")
    return f"{_PREFIXES[group]}{original_name(parameter)}"


def spellings(parameter: str) -> tuple[str, ...]:
    """Every name that one of our parameters has had, the released files' first."""
    return _TOP.get(parameter) or (original_name(parameter),)


def key_of_original(name: str) -> str | None:
    """Our key of a tensor by any of its names; None if it is neither weight nor moment."""
    group = next((g for g in MOMENTS if name.startswith(_PREFIXES[g])), MODEL)
    parameter = _parameter(name.removeprefix(_PREFIXES[group]))
    return None if parameter is None else key_of(group, parameter)


def is_transposed(parameter: str) -> bool:
    """Whether MindSpore stores this matrix as [in, out]."""
    return parameter.endswith(_TRANSPOSED)


def is_pipeline_graph(names: Iterable[str]) -> bool:
    """Whether the names are those of the 200B network, which orders its layers otherwise."""
    return any(_PIPELINE.match(name) for name in names)


def _parameter(name: str) -> str | None:
    if name in _OURS_TOP:
        return _OURS_TOP[name]
    block = _BLOCK.match(name)
    prefix = block[0] if block else _QUERY_LAYER
    rest = _OURS_LAYER.get(name.removeprefix(prefix))
    if rest is None or not name.startswith(prefix):
        return None
    return f"layers.{block[1]}.{rest}" if block else f"query_layer.{rest}"
