"""The original's parameter names, and which of its matrices lie transposed.

MindSpore keeps Q, K, V as [out, in] like we do, but the projection and both MLP matrices as
[in, out]. Every importer of the original's files reads this table.
"""

from typing import Final

_TOP: Final = {
    "word_embedding.weight": "backbone.word_embedding.embedding_table",
    "position_embedding.weight": "backbone.position_embedding.embedding_table",
    "query_embedding.weight": "backbone.top_query_embedding.embedding_table",
    "ln_f.weight": "backbone.layernorm.gamma",
    "ln_f.bias": "backbone.layernorm.beta",
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


def original_name(parameter: str) -> str:
    """MindSpore's name of one of our parameters.

    Raises:
        KeyError: the name is no parameter of the model.
    """
    if parameter in _TOP:
        return _TOP[parameter]
    prefix, _, rest = parameter.partition(".")
    if prefix == "query_layer":
        return f"backbone.top_query_layer.{_LAYER[rest]}"
    index, _, rest = rest.partition(".")
    return f"backbone.blocks.{index}.{_LAYER[rest]}"


def is_transposed(parameter: str) -> bool:
    """Whether MindSpore stores this matrix as [in, out]."""
    return parameter.endswith(_TRANSPOSED)
