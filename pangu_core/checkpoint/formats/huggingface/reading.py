"""The weights of a Hugging Face folder: safetensors or files of torch.save, whole or in pieces."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.huggingface import description
from pangu_core.checkpoint.formats.huggingface.names import HEAD, is_buffer, spellings
from pangu_core.checkpoint.formats.mindspore.tensors import Stored
from pangu_core.checkpoint.manifest import MODEL, VOCABULARY_FILE, Header, key_of
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName, TensorFile
from pangu_core.checkpoint.torch_files.reading import TorchFile, tensor_of
from pangu_core.checkpoint.torch_files.values import TensorRef
from pangu_core.config.model import ModelConfig
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import Shape, parameter_shapes

SAFE_NAME: Final = "model.safetensors"
# In the order in which transformers looks for them.
_WHOLE: Final = (SAFE_NAME, "pytorch_model.bin")
INDEX: Final = ".index.json"
_FLOATS: Final[tuple[DTypeName, ...]] = ("fp32", "bf16", "fp16", "fp64")
_WORDS: Final = "word_embedding.weight"
_COMPARED_ROWS: Final = 4096


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        CheckpointError: there are none, or their index is damaged.
    """
    for name in _WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            return [folder / file for file in _indexed(index)]
    raise _refusal(str(folder), "no weights", f"must hold {' or '.join(_WHOLE)}, or an index")


def read(folder: Path, request: Request) -> Weights:
    """Everything but the tensors' data.

    Raises:
        ConfigError: the optimizer is asked for.
        CheckpointError: a file is missing or damaged, or of another network.
    """
    if request.optimizer:
        raise ConfigError(
            "optimizer",
            seen=str(folder),
            rule="a Hugging Face folder holds weights only",
            fix="leave the optimizer out",
        )
    described = description.read(folder)
    stored: dict[str, Stored] = {}
    for path in weight_files(folder):
        for name, tensor in _tensors(path):
            if name in stored:
                raise _refusal(tensor.where, f"also in {stored[name].where}", "must be there once")
            stored[name] = tensor
    if described.num_layers > len(stored):  # before millions of names are made up
        seen = f"{described.num_layers} layers, {len(stored)} tensors"
        raise _refusal(str(folder), seen, "must hold every layer")
    words = _find(folder, stored, spellings(_WORDS, described.num_layers))
    rows = words.shape[0] if words.shape else 0
    model = described.model(folder / description.FILE_NAME, rows, request)
    tensors = _Reading(folder, stored, model, request).tensors()
    vocabulary = folder / VOCABULARY_FILE
    return Weights(
        header=Header(
            model=model,
            run=request.run,
            dtype=tensors[key_of(MODEL, _WORDS)].dtype,
            samples=described.own.samples if described.own else 0,
        ),
        tensors=tensors,
        step=described.own.step if described.own else 0,
        vocabulary=vocabulary if vocabulary.is_file() else None,
    )


@dataclass(frozen=True)
class _Reading:
    """From a folder's tensors to ours."""

    folder: Path
    stored: Mapping[str, Stored]
    model: ModelConfig
    request: Request

    def tensors(self) -> dict[str, Incoming]:
        """Key -> tensor in file order; what is no parameter must be known to be none."""
        taken = {HEAD}
        tensors = {}
        for parameter, shape in parameter_shapes(self.model).items():
            names = spellings(parameter, self.model.num_layers)
            found = _find(self.folder, self.stored, names)
            tensors[key_of(MODEL, parameter)] = self._incoming(parameter, found, shape)
            taken.update(names)
        for name in self.stored:
            if name not in taken:
                rule = "must be a tensor of this network"
                raise _refusal(self.stored[name].where, "an unknown tensor", rule)
        return tensors

    def _incoming(self, parameter: str, found: Stored, shape: Shape) -> Incoming:
        has_surplus = parameter == _WORDS and found.shape[:1] > shape[:1]
        if found.shape != shape and not (has_surplus and found.shape[1:] == shape[1:]):
            raise _refusal(found.where, f"shape {found.shape}", f"must have shape {shape}")
        read: Callable[[], torch.Tensor] = partial(_rows, found, shape[0])
        head = self.stored.get(HEAD)
        if parameter == _WORDS and head is not None:
            read = partial(_tied_rows, found, head, shape[0])
        return Incoming(shape, self.request.dtype or _dtype(found), read)


def _rows(found: Stored, count: int) -> torch.Tensor:
    return found.read()[:count]


def _tied_rows(found: Stored, head: Stored, count: int) -> torch.Tensor:
    """The word table, after a look whether the head is the same."""
    words = _rows(found, count)
    same = head.shape == found.shape and head.dtype == found.dtype
    other = head.read()[:count] if same else words
    if not same or not all(
        torch.equal(words[start : start + _COMPARED_ROWS], other[start : start + _COMPARED_ROWS])
        for start in range(0, count, _COMPARED_ROWS)
    ):
        rule = "must equal the word table: this network has no head of its own"
        raise _refusal(head.where, "other numbers", rule)
    return words


def _tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    if path.suffix == ".safetensors":
        safe = TensorFile(path, skip=is_buffer)
        for name in safe.names():
            entry = safe.entry(name)
            read = partial(_read_safe, safe, name)
            yield name, Stored(f"{path}: {name}", entry.shape, entry.dtype, read)
        return
    file = TorchFile(path)
    if not isinstance(file.content, Mapping):
        seen = type(file.content).__name__
        raise _refusal(str(path), seen, "must hold a dictionary of tensors")
    for name, ref in file.content.items():
        if isinstance(name, str) and isinstance(ref, TensorRef) and not is_buffer(name):
            read = partial(_read_torch, file, ref)
            yield name, Stored(f"{path}: {name}", ref.shape, file.dtype(ref), read)


def _read_safe(file: TensorFile, name: str) -> torch.Tensor:
    entry = file.entry(name)
    array = np.array(file.raw(name).view(DTYPES[entry.dtype].raw))
    return tensor_of(array, entry.dtype).reshape(entry.shape)


def _read_torch(file: TorchFile, ref: TensorRef) -> torch.Tensor:
    return tensor_of(np.array(file.array(ref), order="C"), file.dtype(ref))


def _indexed(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        sound = bool(files) and all(Path(file).name == file for file in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refusal(str(index), str(error), "must hold a weight_map") from error
    if not sound:
        raise _refusal(str(index), str(files), "must name files of this folder")
    return files


def _find(folder: Path, stored: Mapping[str, Stored], names: tuple[str, ...]) -> Stored:
    for name in names:
        if name in stored:
            return stored[name]
    raise _refusal(str(folder), f"no {names[0]}", "must hold every tensor of the network")


def _dtype(found: Stored) -> DTypeName:
    for name in _FLOATS:
        if found.dtype == name:
            return name
    raise _refusal(found.where, found.dtype, f"must be one of {', '.join(_FLOATS)}")


def _refusal(where: str, seen: str, rule: str) -> CheckpointError:
    return CheckpointError(where, seen=seen, rule=rule, fix="copy the folder again")
