"""From a checkpoint folder to a model in memory, on one rank or spread over a tensor axis."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from pangu_core.checkpoint.agreement import Gather
from pangu_core.checkpoint.manifest import MODEL, key_of
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store, load_newest
from pangu_core.config.base import divisors
from pangu_core.dist import ALONE, Axis
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation.language_model import LanguageModel
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import local_parts

Report = Callable[[int, int], None]  # parameters read, parameters in all

# torch's names, and the short ones of the job file.
DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class Loaded:
    """A model and where it came from."""

    model: LanguageModel
    folder: Path
    vocabulary: Path | None  # the checkpoint's own SentencePiece model


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    axis: Axis = ALONE,
    report: Report = lambda done, total: None,
) -> Loaded:
    """Load a checkpoint, or the newest good one in a folder of checkpoints.

    Args:
        path: the folder.
        device: a torch device.
        dtype: of weights and arithmetic (LayerNorm stays fp32), whatever the file has.
        axis: the tensor axis to spread the weights over; its ranks call this together.
        report: called after each parameter.

    Raises:
        ConfigError: a wrong device or dtype, or a model that the axis cannot share.
        CheckpointError: no checkpoint there that can be trusted.
    """
    place, kind, folder = read_device(device), read_dtype(dtype), Path(path)

    def from_checkpoint(checkpoint: Checkpoint) -> Loaded:
        network = _network(checkpoint, Build(axis, kind, kind), place, report)
        return Loaded(LanguageModel(network), checkpoint.folder, checkpoint.vocabulary())

    if not folder.is_dir():
        raise CheckpointError(
            "model",
            seen=str(folder),
            rule="must be a checkpoint folder, or a folder of checkpoints",
            fix="check the path; a finished run's is runs/NAME/checkpoints or runs/NAME/model",
        )
    store = Store(folder)
    if not store.has_folders():
        return from_checkpoint(Checkpoint.open(folder))
    newest = load_newest(store, from_checkpoint, gather=_gather_over(axis), rank=axis.rank)
    assert newest is not None  # has_folders said that there is one
    return newest


def read_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        ConfigError: it is not one of ours.
    """
    if name not in DTYPES:
        raise ConfigError(
            "dtype",
            seen=name,
            rule="must be a floating dtype",
            fix=f"use one of {', '.join(DTYPES)}",
        )
    return DTYPES[name]


def read_device(name: str) -> torch.device:
    """The torch device of a name.

    Raises:
        ConfigError: this machine has none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(
            "device",
            seen=name,
            rule=f"must be a device of this machine ({str(error).splitlines()[0]})",
            fix="use cpu, or cuda where there is a GPU",
        ) from error
    return device


def _gather_over(axis: Axis) -> Gather:
    """Exchange of outcomes over the axis, so that all its ranks load the same checkpoint."""

    def gather(value: Any) -> list[Any]:
        values = [value] * axis.size
        if axis.group is not None:
            dist.all_gather_object(values, value, group=axis.group)
        return values

    return gather


def _network(
    checkpoint: Checkpoint, build: Build, device: torch.device, report: Report
) -> PanguModel:
    config, axis = checkpoint.manifest.model, build.axis
    if config.num_heads % axis.size:
        raise ConfigError(
            "tensor parallel size",
            seen=axis.size,
            rule=f"must divide the model's heads ({config.num_heads})",
            fix=f"use one of {divisors(config.num_heads)}",
        )
    with device:
        network = PanguModel(config, build)
    torch.nn.init.zeros_(network.word_embedding.weight)  # its padding rows are in no file
    parts = list(local_parts(network))
    for number, (name, tensor, part) in enumerate(parts, start=1):
        checkpoint.load_into({key_of(MODEL, name): (part, tensor)})
        report(number, len(parts))
    return network
