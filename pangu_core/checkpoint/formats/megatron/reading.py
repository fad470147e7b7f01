"""Reads a Megatron folder of either dialect, with any number of model-parallel ranks.

The files are opened as data (checkpoint/torch_files), so weights of strangers run no code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import folder
from pangu_core.checkpoint.formats.megatron.names import CORE, PORT, Dialect, StoredTensor
from pangu_core.checkpoint.formats.megatron.optimizer import grouped, read_states
from pangu_core.checkpoint.formats.megatron.shards import (
    Sharded,
    find_tensor,
    lookup,
    part_of,
    refusal,
)
from pangu_core.checkpoint.formats.megatron.sizes import count_layers, own_count, settle
from pangu_core.checkpoint.manifest import MODEL, Group, Header, key_of
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.checkpoint.torch_files.reading import TorchFile
from pangu_core.checkpoint.torch_files.values import Instance
from pangu_core.config.model import ModelConfig
from pangu_core.errors import ConfigError
from pangu_core.layout import Shape, parameter_shapes

ROOT = "model"


def read(source: Path, request: Request) -> Weights:
    """The weights that the tracker file points to, and on request the optimizer's state.

    With the optimizer, the weights are the fp32 masters where the file has them.

    Raises:
        ConfigError: nothing says how many heads there are, or Megatron-core's optimizer is asked
            for.
        CheckpointError: no tracker file; files missing, damaged, of other sizes, or with code.
    """
    place = folder.find(source)
    files = [_open(path, len(place.files)) for path in place.files]
    dialect = _dialect(files[0])
    if request.optimizer and dialect is not PORT:
        raise ConfigError(
            "optimizer",
            seen=str(source),
            rule=f"the optimizer's state of {dialect.name} is not read",
            fix="leave the optimizer out",
        )
    model = _sizes(files, dialect, request)
    tensors = _Tensors(files, dialect, model, request).all()
    header = Header(
        model=model,
        run=request.run,
        dtype=tensors[key_of(MODEL, "word_embedding.weight")].dtype,
        samples=own_count(files[0].content, "samples") or 0,
    )
    return Weights(header=header, tensors=tensors, step=_step(files[0].content, place.iteration))


@dataclass(frozen=True)
class _Tensors:
    """From stored tensors to ours."""

    files: Sequence[TorchFile]
    dialect: Dialect
    model: ModelConfig
    request: Request

    def all(self) -> dict[str, Incoming]:
        """Key -> tensor, each group in our order."""
        stored = list(self.dialect.tensors(self.model.num_layers))
        shapes = parameter_shapes(self.model)
        owners = {name: tensor for tensor in stored for name in tensor.parameters}
        states: dict[tuple[Group, str], Sharded] = {}
        if self.request.optimizer:
            is_matrix = {name: len(shape) > 1 for name, shape in shapes.items()}
            states = read_states(self.files, grouped(stored, is_matrix))
        return {
            key_of(group, name): self._incoming(
                states.get((group, name)) or find_tensor(self.files, ROOT, owners[name]),
                owners[name],
                name,
                shape,
                self.request.dtype if group == MODEL else None,
            )
            for group in self.request.groups
            for name, shape in shapes.items()
        }

    def _incoming(
        self,
        sharded: Sharded,
        stored: StoredTensor,
        name: str,
        shape: Shape,
        cast: DTypeName | None,
    ) -> Incoming:
        parts = len(stored.parameters)
        wanted = (parts * shape[0], *shape[1:])
        found = sharded.shape
        has_surplus = name == "word_embedding.weight" and found[:1] > wanted[:1]
        if found != wanted and not (has_surplus and found[1:] == wanted[1:]):
            rule = f"must make up {wanted} from {len(self.files)} ranks"
            raise refusal(self.files[0], sharded.name, str(found), rule)
        read = part_of(sharded, stored, name, shape=shape, num_heads=self.model.num_heads)
        return Incoming(shape, cast or sharded.dtype, read)


def _open(path: Path, num_ranks: int) -> TorchFile:
    file = TorchFile(path)
    if not isinstance(file.content, dict):
        raise refusal(file, "content", type(file.content).__name__, "must be a dictionary")
    args = file.content.get("args")
    size = args.get("model_parallel_size") if isinstance(args, Instance) else None
    if type(size) is int and size != num_ranks:
        rule = f"{num_ranks} mp_rank folders are here"
        raise refusal(file, "args.model_parallel_size", str(size), rule)
    return file


def _step(content: Mapping[str, Any], tracked: int | None) -> int:
    """Updates behind the weights: our own word, the tracker's, the file's."""
    own = own_count(content, "step")
    if own is not None:
        return own
    return tracked if tracked is not None else folder.iteration_of(content.get("iteration")) or 0


def _dialect(file: TorchFile) -> Dialect:
    if lookup(file.content, (ROOT, "language_model")) is not None:
        return PORT
    if lookup(file.content, (ROOT, "decoder.final_layernorm.weight")) is not None:
        return CORE
    rule = f"must have the names of {PORT.name} or of {CORE.name}"
    raise refusal(file, ROOT, "neither language_model nor decoder", rule)


def _sizes(files: Sequence[TorchFile], dialect: Dialect, request: Request) -> ModelConfig:
    top = {stored.parameters[0]: stored for stored in dialect.tensors(1)}

    def shape(name: str) -> Shape:
        sharded = find_tensor(files, ROOT, top[name])
        if len(sharded.shape) != 2:
            raise refusal(files[0], sharded.name, str(sharded.shape), "must be a matrix")
        return sharded.shape

    names = files[0].content[ROOT]
    if dialect is PORT:
        names = lookup(names, ("language_model", "transformer"))
    rows, hidden_size = shape("word_embedding.weight")
    found = {
        "num_layers": count_layers(names if isinstance(names, dict) else ()),
        "hidden_size": hidden_size,
        "sequence_length": shape("position_embedding.weight")[0],
    }
    where, content = str(files[0].path), files[0].content
    return settle(where, content, found=found, rows=rows, request=request)
