"""The sizes of a network in Megatron's files: from shapes, from the arguments, from ourselves."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from pangu_core.checkpoint.formats.form import Request
from pangu_core.checkpoint.formats.mindspore.tensors import PUBLISHED_ROWS
from pangu_core.checkpoint.torch_files.values import Instance
from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.errors import CheckpointError, ConfigError, PanguError

# What we add to a file, and no Megatron looks at: sizes, activation, sample counter.
OWN_KEY: Final = "pangu"
_LAYER: Final = re.compile(r"(?:decoder\.)?layers\.(\d+)\.")
_COMPARED: Final = ("num_layers", "hidden_size", "num_heads", "vocab_size", "sequence_length")
logger = logging.getLogger(__name__)


def count_layers(names: Iterable[object]) -> int:
    """Layers among a transformer's names, the query layer included."""
    found = {match[1] for match in map(_LAYER.match, map(str, names)) if match}
    return len(found) + 1


def settle(
    where: str,
    content: Mapping[str, Any],
    *,
    found: Mapping[str, int],
    rows: int,
    request: Request,
) -> ModelConfig:
    """The network's sizes.

    Args:
        where: the file, for messages.
        content: what the first rank's file holds.
        found: layers, width and positions, from the tensors' shapes.
        rows: of the word table, padding included.
        request: what the user says; the activation is the file's all the same, where the file
            says it, for the weights were tuned with it.

    Raises:
        ConfigError: nothing says how many heads there are, or the sizes are others than asked for.
        CheckpointError: the file contradicts itself.
    """
    asked, said = request.model, _said(where, content)
    values: dict[str, Any] = {
        "vocab_size": min(rows, asked.vocab_size if asked else PUBLISHED_ROWS)
    }
    if asked is not None:
        names = ("num_heads", "activation", "layer_norm_epsilon")
        values |= {name: getattr(asked, name) for name in names}
    if request.num_heads is not None:
        values["num_heads"] = request.num_heads
    values |= {**found, **said}
    if "num_heads" not in values:
        values["num_heads"] = _published_heads(where, values)
    model = _validated(where, values)
    for name in found:
        _compare(where, name, getattr(model, name), found[name], "the tensors' own")
    for name in _COMPARED if asked else ():
        _compare(
            where,
            name,
            getattr(model, name),
            getattr(asked, name),
            "the configured",
            error=ConfigError,
        )
    if model.vocab_size > rows:
        _compare(where, "vocab_size", model.vocab_size, rows, "at most the tensors' own")
    return model


def own_count(content: Mapping[str, Any], name: str) -> int | None:
    """The step or the sample counter that we wrote; None in the files of others."""
    own = content.get(OWN_KEY)
    value = own.get(name) if isinstance(own, dict) else None
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _said(where: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of its network: our own word, or the port's arguments."""
    own, args = content.get(OWN_KEY), content.get("args")
    if isinstance(own, dict):
        return _validated(where, own.get("model")).model_dump()
    if not isinstance(args, Instance):
        return {}
    # The port's default was the exact GELU; converted and released files have no arguments.
    is_tanh = bool(args.get("openai_gelu") or args.get("bias_gelu_fusion"))
    said = {
        "num_heads": args.get("num_attention_heads"),
        "layer_norm_epsilon": args.get("layernorm_epsilon"),
    }
    return {
        "activation": "gelu_tanh" if is_tanh else "gelu_erf",
        **{name: value for name, value in said.items() if value is not None},
    }


def _validated(where: str, values: Any) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"{where}: {name}",
            seen=f"{problem['input']!r:.60}",
            rule=f"must be a size of a network: {problem['msg'].lower()}",
            fix="copy the file again",
        ) from error


def _compare(
    where: str,
    name: str,
    seen: int,
    wanted: int,
    whose: str,
    *,
    error: type[PanguError] = CheckpointError,
) -> None:
    if seen != wanted:
        written = f"model.{ModelConfig.model_fields[name].alias}"
        raise error(
            f"{where}: {written}",
            seen=seen,
            rule=f"must be {whose} {wanted}",
            fix=f"set {written} to {seen}, or name other weights",
        )


def _published_heads(where: str, found: Mapping[str, int]) -> int:
    for name, preset in PRESETS.items():
        if all(getattr(preset, size) == found[size] for size in _COMPARED if size in found):
            logger.info("sizes are those of %s: %d heads", name, preset.num_heads)
            return preset.num_heads
    raise ConfigError(
        "model.numHeads",
        seen=f"nothing; {where} holds {dict(found)}",
        rule="the files do not say how many attention heads there are",
        fix="give the sizes as model in the job file, or --heads N to the command",
    )
