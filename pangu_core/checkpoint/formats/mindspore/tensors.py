"""The original's tensors, however they are stored, made into ours: names, sizes, orientation.

MindSpore files, MindSpore shards and npy folders each list what they hold as ``Stored`` tensors
under the original's names; everything after that is the same and is here.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.mindspore.names import (
    is_pipeline_graph,
    is_transposed,
    key_of_original,
    original_of_key,
)
from pangu_core.checkpoint.manifest import MODEL, Group, Header, key_of
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import Shape, parameter_shapes

# The published vocabulary; files of the Megatron port's making carry padding rows behind it.
PUBLISHED_ROWS: Final = 40_000
_FLOATS: Final[tuple[DTypeName, ...]] = ("fp32", "bf16", "fp16", "fp64")
_LAYER: Final = re.compile(rf"{MODEL}/layers\.(\d+)\.")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the original's files."""

    where: str  # file and place, for messages
    shape: Shape
    dtype: str  # one of our names if it is one of our dtypes, else the file's word for it
    read: Callable[[], torch.Tensor]


def weights_of(source: Path, stored: Mapping[str, Stored], request: Request) -> Weights:
    """The model that these tensors make up.

    Raises:
        ConfigError: the sizes are not the configured ones, nothing says how many heads there
            are, or it is the 200B network.
        CheckpointError: a tensor is missing, there twice, or of another shape or dtype.
    """
    refuse_pipeline_graph(source, stored)
    named = _by_key(source, stored)
    model = _sizes(source, named, request)
    tensors = {
        key_of(group, name): _incoming(source, named, group, name, shape, request)
        for group in request.groups
        for name, shape in parameter_shapes(model).items()
    }
    dtype = tensors[key_of(MODEL, "word_embedding.weight")].dtype
    return Weights(header=Header(model=model, run=request.run, dtype=dtype), tensors=tensors)


def refuse_pipeline_graph(source: Path, names: Iterable[str]) -> None:
    """Refuse the 200B network, known by its names.

    Raises:
        ConfigError: see above.
    """
    if is_pipeline_graph(names):
        raise ConfigError(
            str(source),
            seen="the names of the 200B network",
            rule="its pipeline orders the layers otherwise, so these weights fit no other model",
            fix="use the 2.6B or the 13B release",
        )


def _by_key(source: Path, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    named: dict[str, Stored] = {}
    ignored = []
    for name, tensor in stored.items():
        key = key_of_original(name)
        if key is None:
            ignored.append(name)
        elif key in named:
            raise _refusal(named[key].where, f"{key} again in {tensor.where}", "must be there once")
        else:
            named[key] = tensor
    if ignored:
        logger.info(
            "ignored %d tensors that are no weights: %s", len(ignored), ", ".join(ignored[:8])
        )
    return named


def _sizes(source: Path, named: Mapping[str, Stored], request: Request) -> ModelConfig:
    """The network's sizes, from the tensors' shapes.

    They do not say how many heads there are: the request does, or else the published network of
    the same sizes. With sizes in the request, everything else must agree; surplus vocabulary rows
    may be there and are dropped.
    """
    rows, hidden = _matrix_shape(source, named, "word_embedding.weight")
    positions = _matrix_shape(source, named, "position_embedding.weight")[0]
    blocks = {int(match[1]) for match in map(_LAYER.match, named) if match}
    gap = next(index for index in range(len(blocks) + 1) if index not in blocks)
    if gap < len(blocks):
        seen = f"nothing of block {gap}, though there is a block {max(blocks)}"
        raise _refusal(str(source), seen, "must hold every block")
    found: dict[str, Any] = {
        "num_layers": len(blocks) + 1,
        "hidden_size": hidden,
        "sequence_length": positions,
    }
    model = request.model
    if model is None:
        found["vocab_size"] = min(rows, PUBLISHED_ROWS)
        if request.num_heads is not None:
            return ModelConfig(num_heads=request.num_heads, **found)
        return _with_heads(source, found)
    for name, value in {**found, "vocab_size": min(rows, model.vocab_size)}.items():
        if value != getattr(model, name):
            written = f"model.{ModelConfig.model_fields[name].alias}"
            raise ConfigError(
                f"{source}: {written}",
                seen=value,
                rule=f"must equal the configured {getattr(model, name)}",
                fix=f"set {written} to {value}, or name other weights",
            )
    return model


def _with_heads(source: Path, found: dict[str, int]) -> ModelConfig:
    for name, preset in PRESETS.items():
        if all(getattr(preset, field) == value for field, value in found.items()):
            logger.info("sizes are those of %s: %d heads", name, preset.num_heads)
            return preset
    raise ConfigError(
        "model.numHeads",
        seen=f"nothing; {source} holds {found}",
        rule="the files do not say how many attention heads there are",
        fix="give the sizes as model in the job file, or --heads N to the command",
    )


def _matrix_shape(source: Path, named: Mapping[str, Stored], parameter: str) -> tuple[int, int]:
    tensor = _find(source, named, MODEL, parameter)
    if len(tensor.shape) != 2 or not all(tensor.shape):
        raise _refusal(tensor.where, f"shape {tensor.shape}", "must be a matrix")
    return tensor.shape[0], tensor.shape[1]


def _incoming(
    source: Path,
    named: Mapping[str, Stored],
    group: Group,
    parameter: str,
    shape: Shape,
    request: Request,
) -> Incoming:
    tensor = _find(source, named, group, parameter)
    found = tensor.shape[::-1] if is_transposed(parameter) else tensor.shape
    has_surplus = parameter == "word_embedding.weight" and found[:1] > shape[:1]
    if found != shape and not (has_surplus and found[1:] == shape[1:]):
        rule = f"must give {shape} as {key_of(group, parameter)}"
        raise _refusal(tensor.where, f"shape {tensor.shape}", rule)
    dtype = _dtype(tensor)
    if group == MODEL and request.dtype is not None:
        dtype = request.dtype
    return Incoming(shape, dtype, _reader(tensor, parameter, shape))


def _reader(tensor: Stored, parameter: str, shape: Shape) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        value = tensor.read()
        return value.t().contiguous() if is_transposed(parameter) else value[: shape[0]]

    return read


def _dtype(tensor: Stored) -> DTypeName:
    for name in _FLOATS:
        if tensor.dtype == name:
            return name
    raise _refusal(tensor.where, tensor.dtype, f"must be one of {', '.join(_FLOATS)}")


def _find(source: Path, named: Mapping[str, Stored], group: Group, parameter: str) -> Stored:
    key = key_of(group, parameter)
    if key in named:
        return named[key]
    if group == MODEL:
        raise _refusal(str(source), f"no {original_of_key(key)}", f"must hold {key}")
    raise CheckpointError(
        str(source),
        seen=f"no {original_of_key(key)}",
        rule="the optimizer's moments are to be carried along",
        fix="convert without the optimizer, or use a file of the training itself",
    )


def _refusal(where: str, seen: str, rule: str) -> CheckpointError:
    return CheckpointError(where, seen=seen, rule=rule, fix="copy the files again")
