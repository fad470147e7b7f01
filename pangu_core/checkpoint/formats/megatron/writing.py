"""Writes a Megatron folder, one tensor after another, into the files of all ranks at once."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.formats.form import Weights, check_free
from pangu_core.checkpoint.formats.megatron import folder
from pangu_core.checkpoint.formats.megatron.names import CORE, PORT, Dialect, StoredTensor, fuse
from pangu_core.checkpoint.formats.megatron.optimizer import grouped, port_schedule, port_state
from pangu_core.checkpoint.formats.megatron.reading import ROOT
from pangu_core.checkpoint.formats.megatron.sizes import OWN_KEY
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, key_of
from pangu_core.checkpoint.reader import Report
from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName
from pangu_core.checkpoint.torch_files.values import Instance, TensorRef
from pangu_core.checkpoint.torch_files.writing import TorchWriter, promise
from pangu_core.config.base import divisors
from pangu_core.config.model import ModelConfig
from pangu_core.config.train import OptimizerConfig
from pangu_core.errors import ConfigError
from pangu_core.layout import Shape, padded_rows, parameter_shape

# The weights as they are saved; MODEL is their fp32 master, as in the optimizer's module.
WEIGHTS: Final = "weights"
# Of Megatron-core's fused rows [heads, 3, head size].
CORE_VERSION: Final = 3.0
# What the original's converter gave to weights that were not trained: its tools want more than 0.
UNTRAINED_ITERATION: Final = 1000
# The first tensor of a fused one says how all of it is cut.
_WORDS: Final = "word_embedding.weight"


@dataclass(frozen=True)
class Cut:
    """Into how many files the weights go, and to what the vocabulary is padded."""

    ranks: int = 1
    # Of the port's first state; with one rank it makes the 40,064 rows of the released files.
    divisor: int = 128

    def shape(self, stored: StoredTensor, model: ModelConfig) -> Shape:
        """Shape of a stored tensor in one rank's file."""
        first, *rest = parameter_shape(stored.parameters[0], model)
        sizes = [first * len(stored.parameters), *rest]
        if stored.parameters[0] == _WORDS:
            sizes[0] = self.divisor * self.ranks * padded_rows(first, self.divisor * self.ranks)
        if stored.cut is not None:
            sizes[stored.cut] //= self.ranks
        return tuple(sizes)

    def piece(
        self, value: torch.Tensor, stored: StoredTensor, rank: int, size: int
    ) -> torch.Tensor:
        """One rank's part; the last rows of the vocabulary are missing where padding stands."""
        if stored.cut is None:
            return value
        start = min(rank * size, value.shape[stored.cut])
        return value.narrow(stored.cut, start, min(size, value.shape[stored.cut] - start))


def is_written(target: Path) -> bool:
    """Whether a whole result is there."""
    return (target / folder.TRACKER).is_file()


def write_folder(
    weights: Weights, target: Path, *, dialect: Dialect, cut: Cut, replace_old: bool, report: Report
) -> str:
    """A folder with one iteration; returns a SHA-256 over its files.

    Raises:
        ConfigError: the target is there and may not be replaced, or see ``add_iteration``.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    check_free(target, may_replace=replace_old and is_written(target))
    durable.remove_temporaries(target.parent, target.name)
    temporary = durable.new_temporary(target.parent, target.name)
    try:
        digest = add_iteration(weights, temporary, dialect=dialect, cut=cut, report=report)
        durable.publish(temporary, target)
    finally:
        durable.remove_folder(temporary)  # renamed by now, if all went well
    return digest


def add_iteration(
    weights: Weights, root: Path, *, dialect: Dialect, cut: Cut, report: Report
) -> str:
    """Write the folder of an iteration into ``root`` and point the tracker to it.

    Returns a SHA-256 over the files. Raises:
        ConfigError: the heads do not divide, or the format cannot say what this model is.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    model = weights.header.model
    _check(model, dialect, cut, has_optimizer=_has_optimizer(weights))
    iteration = weights.step or UNTRAINED_ITERATION
    final = root / folder.folder_name(iteration)
    durable.remove_temporaries(root, final.name)
    temporary = durable.new_temporary(root, final.name)
    try:
        plan = _Plan.make(weights, dialect, cut)
        digest = _write_files(
            temporary, weights, plan, _content(weights, dialect, cut, plan), report
        )
        durable.publish(temporary, final)
    finally:
        durable.remove_folder(temporary)
    durable.replace_text(root / folder.TRACKER, str(iteration))
    return digest


@dataclass(frozen=True)
class _Plan:
    """What every rank's file holds: for each stored tensor, the groups of it in file order."""

    cut: Cut
    promises: Mapping[StoredTensor, Mapping[str, TensorRef]]  # weights, then master and moments

    @classmethod
    def make(cls, weights: Weights, dialect: Dialect, cut: Cut) -> Self:
        promises: dict[StoredTensor, dict[str, TensorRef]] = {}
        model, numbers = weights.header.model, count()
        for stored in dialect.tensors(model.num_layers):
            shape = cut.shape(stored, model)
            promises[stored] = {
                name: promise(str(next(numbers)), shape, DTYPES[dtype].torch)
                for name, dtype in _groups(weights, stored).items()
            }
        return cls(cut, promises)

    def refs(self) -> list[TensorRef]:
        return [ref for row in self.promises.values() for ref in row.values()]


def _groups(weights: Weights, stored: StoredTensor) -> dict[str, DTypeName]:
    """What is written of a tensor, and in which dtype."""
    dtype = weights.tensors[key_of(MODEL, stored.parameters[0])].dtype
    groups: dict[str, DTypeName] = {WEIGHTS: dtype}
    if _has_optimizer(weights):
        if dtype in ("fp16", "bf16"):
            groups[MODEL] = "fp32"  # the master
        groups |= {
            name: weights.tensors[key_of(name, stored.parameters[0])].dtype for name in MOMENTS
        }
    return groups


def _write_files(
    root: Path, weights: Weights, plan: _Plan, content: Mapping[str, Any], report: Report
) -> str:
    """All ranks' files open at once, so that each tensor is read once."""
    done, total = 0, sum(tensor.num_bytes for tensor in weights.tensors.values())
    with ExitStack() as stack:
        writers = []
        for rank in range(plan.cut.ranks):
            path = folder.file_of(root, rank)
            path.parent.mkdir()
            writers.append(stack.enter_context(TorchWriter(path, content, plan.refs())))
        for stored, row in plan.promises.items():
            for group in (MODEL, *MOMENTS) if _has_optimizer(weights) else (MODEL,):
                sources = [weights.tensors[key_of(group, name)] for name in stored.parameters]
                value = fuse([tensor.read() for tensor in sources], weights.header.model.num_heads)
                for name in (WEIGHTS, MODEL) if group == MODEL else (group,):
                    if name in row:
                        _write_pieces(writers, value, stored, row[name], plan.cut)
                del value  # before the next one is read
                done += sum(tensor.num_bytes for tensor in sources)
                report(done, total)
        digests = "".join(writer.sha256() for writer in writers)
    return durable.sha256(digests.encode())


def _write_pieces(
    writers: list[TorchWriter], value: torch.Tensor, stored: StoredTensor, ref: TensorRef, cut: Cut
) -> None:
    cast = value.to(ref.storage.dtype)
    size = ref.shape[stored.cut] if stored.cut is not None else 0
    for rank, writer in enumerate(writers):
        writer.write(cut.piece(cast, stored, rank, size))


def _content(weights: Weights, dialect: Dialect, cut: Cut, plan: _Plan) -> dict[str, Any]:
    """What the file holds besides the numbers."""
    header = weights.header
    tree: dict[str, Any] = {}
    for stored, row in plan.promises.items():
        *parents, last = stored.paths[0]
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = row[WEIGHTS]
    content: dict[str, Any] = {
        ROOT: tree,
        "iteration": weights.step or UNTRAINED_ITERATION,
        OWN_KEY: {
            "model": header.model.model_dump(),
            "samples": header.samples,
            "step": weights.step,
        },
    }
    if dialect is CORE:
        content["checkpoint_version"] = CORE_VERSION
    if _has_optimizer(weights):
        content |= _training(weights, cut, plan)
    return content


def _training(weights: Weights, cut: Cut, plan: _Plan) -> dict[str, Any]:
    """What the port's own trainer goes on from, random states aside (``--no-load-rng``)."""
    model, train = weights.header.model, weights.header.training.get("train", {})
    settings = OptimizerConfig.model_validate(train.get("optimizer", {}))
    updates = weights.step - weights.header.skipped
    is_matrix = {
        stored.parameters[0]: len(row[WEIGHTS].shape) > 1 for stored, row in plan.promises.items()
    }
    order = grouped(plan.promises, is_matrix)
    states = [
        {name: ref for name, ref in plan.promises[stored].items() if name != WEIGHTS}
        for stored in order
    ]
    return {
        "args": Instance("argparse Namespace", _arguments(model, cut)),
        "optimizer": port_state(
            states,
            shapes=[plan.promises[stored][WEIGHTS].shape for stored in order],
            settings=settings,
            step=updates,
        ),
        "lr_scheduler": port_schedule(
            settings, step=updates, steps=train.get("steps", weights.step)
        ),
    }


def _arguments(model: ModelConfig, cut: Cut) -> dict[str, Any]:
    """The arguments that the port compares with its command line, and the activation."""
    multiple = cut.divisor * cut.ranks
    return {
        "num_layers": model.num_layers - 1,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_heads,
        "max_position_embeddings": model.sequence_length,
        "make_vocab_size_divisible_by": cut.divisor,
        "padded_vocab_size": multiple * padded_rows(model.vocab_size, multiple),
        "tokenizer_type": "GPT2BPETokenizer",
        "model_parallel_size": cut.ranks,
        "layernorm_epsilon": model.layer_norm_epsilon,
        "openai_gelu": model.activation == "gelu_tanh",
        "bias_gelu_fusion": False,
    }


def _has_optimizer(weights: Weights) -> bool:
    return key_of(MOMENTS[0], _WORDS) in weights.tensors


def _check(model: ModelConfig, dialect: Dialect, cut: Cut, *, has_optimizer: bool) -> None:
    if model.num_heads % cut.ranks:
        raise ConfigError(
            "tensorParallel",
            seen=cut.ranks,
            rule=f"must divide the model's {model.num_heads} heads",
            fix=f"choose one of {divisors(model.num_heads)}",
        )
    if dialect is not PORT and has_optimizer:
        raise ConfigError(
            "optimizer",
            seen=dialect.name,
            rule="the optimizer's state is written for the port alone",
            fix="leave the optimizer out",
        )
    if dialect is PORT and model.activation == "fast_gelu":
        raise ConfigError(
            "model.activation",
            seen=model.activation,
            rule=f"{dialect.name} cannot compute it, and would write other text",
            fix="export to another format",
        )
