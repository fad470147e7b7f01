"""Reads any part of any tensor of a checkpoint, whatever layout wrote it.

A part is put together from the stored slices that it meets. The SHA-256 of a stored slice is
computed while it is first read, from the bytes that are being copied.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.manifest import Manifest, StoredSlice, read_manifest
from pangu_core.checkpoint.tensor_file import (
    BLOCK_BYTES,
    DTYPES,
    Bytes,
    TensorFile,
    blocks,
    damaged,
    raw_bytes,
)
from pangu_core.errors import CheckpointError
from pangu_core.layout import Slice, intersect, num_elements, relative

Report = Callable[[int, int], None]  # bytes done, bytes in all
Array = np.ndarray[Any, Any]


def silent(done: int, total: int) -> None:
    """The report that nobody reads."""


def unseen() -> None:
    """The sign of life that nobody waits for."""


class Checkpoint:
    """An opened checkpoint folder."""

    def __init__(self, folder: Path, manifest: Manifest, manifest_sha256: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.manifest_sha256 = manifest_sha256
        self._files: dict[str, TensorFile] = {}
        self._verified: set[StoredSlice] = set()
        self._slices: dict[str, list[StoredSlice]] = {}
        for stored in manifest.slices:
            self._slices.setdefault(stored.key, []).append(stored)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the manifest; shards are opened when they are needed.

        Raises:
            CheckpointError: the folder holds no checkpoint that can be trusted.
        """
        manifest, data = read_manifest(folder)
        return cls(folder, manifest, durable.sha256(data))

    def read(self, key: str, part: Slice) -> torch.Tensor:
        """One part of a tensor, in its stored dtype, on the CPU.

        Raises:
            CheckpointError: the key is missing, or what is stored is damaged.
        """
        stored = self.slices(key)
        dtype = DTYPES[stored[0].dtype]
        result = torch.empty([stop - start for start, stop in part], dtype=dtype.torch)
        target = raw_bytes(result).view(dtype.raw).reshape(result.shape)
        for source in stored:
            common = intersect(source.part, part)
            if common is not None:
                self._copy(source, common, target[relative(common, part)])
        return result

    def load_into(
        self,
        wanted: Mapping[str, tuple[Slice, torch.Tensor]],
        sign_of_life: Callable[[], None] = unseen,
    ) -> None:
        """Fill tensors, on any device and of any floating dtype, with parts of stored ones.

        ``sign_of_life`` is called after each tensor.

        Raises:
            CheckpointError: a key is missing (moments too: they are never made up), or what is
                stored is damaged. Some tensors may be filled by then.
        """
        for key, (part, tensor) in wanted.items():
            tensor.detach().copy_(self.read(key, part))
            sign_of_life()

    def slices(self, key: str) -> list[StoredSlice]:
        """The stored slices of a tensor.

        Raises:
            CheckpointError: the checkpoint has no such tensor.
        """
        if key not in self._slices:
            raise CheckpointError(
                f"{self.folder}: {key}",
                seen="not in this checkpoint",
                rule="every tensor asked for must be stored",
                fix="use a checkpoint saved with its optimizer, or start from its weights only",
            )
        return self._slices[key]

    def vocabulary(self) -> Path | None:
        """The SentencePiece model in the folder, its SHA-256 checked; None if there is none.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        listed = self.manifest.vocabulary
        if listed is None:
            return None
        path = self.folder / listed.file
        found = durable.file_sha256(path) if path.is_file() else "no such file"
        if found != listed.sha256:
            raise damaged(path, found, f"must have SHA-256 {listed.sha256}")
        return path

    def verify(self, report: Report = silent) -> list[CheckpointError]:
        """Read everything once; returns what is damaged, a file of no use as one error."""
        sizes = {s: num_elements(s.part) * DTYPES[s.dtype].torch.itemsize for s in self._all()}
        done, total = 0, sum(sizes.values())
        useless = self._useless_files()
        errors = list(useless.values())
        for stored, size in sizes.items():
            try:
                if stored.file not in useless:
                    self._check(stored, self._bytes(stored))
            except CheckpointError as error:
                errors.append(error)
            done += size
            report(done, total)
        try:
            self.vocabulary()
        except CheckpointError as error:
            errors.append(error)
        return errors

    def _useless_files(self) -> dict[str, CheckpointError]:
        """Why files cannot even be opened, or are cut short."""
        errors = {}
        for name in dict.fromkeys(stored.file for stored in self._all()):
            try:
                self._file(name)
            except CheckpointError as error:
                errors[name] = error
        return errors

    def _all(self) -> Iterator[StoredSlice]:
        for stored in self._slices.values():
            yield from stored

    def _copy(self, source: StoredSlice, common: Slice, target: Array) -> None:
        """Copy the common part of a stored slice, hashing all of the slice on the way."""
        data = self._bytes(source)
        shape = [stop - start for start, stop in source.part]
        array = data.view(DTYPES[source.dtype].raw).reshape(shape)
        index = relative(common, source.part)
        if source in self._verified or not shape:
            self._check(source, data)
            target[...] = array[index]
            return
        rows, digest = index[0], hashlib.sha256()
        step = max(1, BLOCK_BYTES // max(1, data.nbytes // shape[0]))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            digest.update(array[start:stop].data)
            first, last = max(start, rows.start), min(stop, rows.stop)
            if first < last:
                inner = (slice(first, last), *index[1:])
                target[first - rows.start : last - rows.start] = array[inner]
        self._confirm(source, digest.hexdigest())

    def _bytes(self, stored: StoredSlice) -> Bytes:
        """The mapped bytes of a stored slice, after its file's header agreed to the manifest."""
        file = self._file(stored.file)
        entry = file.entry(stored.key)
        shape = tuple(stop - start for start, stop in stored.part)
        if (entry.shape, entry.dtype) != (shape, stored.dtype):
            seen = f"{stored.key} is {entry.dtype} {entry.shape}"
            raise damaged(file.path, seen, f"must be {stored.dtype} {shape} as in the manifest")
        return file.raw(stored.key)

    def _file(self, name: str) -> TensorFile:
        if name not in self._files:
            self._files[name] = TensorFile(self.folder / name)
        return self._files[name]

    def _check(self, stored: StoredSlice, data: Bytes) -> None:
        if stored not in self._verified:
            digest = hashlib.sha256()
            for block in blocks(data):
                digest.update(block.data)
            self._confirm(stored, digest.hexdigest())

    def _confirm(self, stored: StoredSlice, digest: str) -> None:
        if digest != stored.sha256:
            seen = f"{stored.key} {stored.part} has SHA-256 {digest}"
            raise damaged(self.folder / stored.file, seen, f"must be {stored.sha256}")
        self._verified.add(stored)
