"""Token files: Megatron's memory-mapped pair ``prefix.bin`` / ``prefix.idx``, read and written.

    .bin       all tokens, one after the other, little-endian
    .idx       magic (9 bytes), version, dtype code, N items, D document bounds (34 bytes in all),
               then int32 sizes[N], int64 pointers[N] (byte offsets into .bin), int64 documents[D]
    .mask.bin  optional, ours: one byte a token, 1 where the loss counts

An item is a stretch of tokens, a document one or more items: ``documents`` holds the number of
items before each document, from 0 to N.
"""

import hashlib
import os
import secrets
import shutil
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

from pangu_core.errors import DataError

Array = npt.NDArray[Any]

MAGIC: Final = b"MMIDIDX\x00\x00"
VERSION: Final = 1
HEADER: Final = struct.Struct("<9sQBQQ")
# Codes 6 and 7 both mean float64: the original wrote ``np.float`` under 6.
DTYPES: Final = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f8", 8: "<u2"}
WRITABLE: Final = {"uint16": 8, "int32": 4}
# Vocabularies below this many entries are stored as uint16, as the original does.
UINT16_VOCABULARY: Final = 65_500
ITEMS_PER_BLOCK: Final = 1 << 20  # items checked at a time, to bound memory


def sibling(prefix: Path, suffix: str) -> Path:
    """The file of a prefix; the prefix itself may hold dots."""
    return prefix.with_name(prefix.name + suffix)


@dataclass(frozen=True)
class TokenFile:
    """A token file open for reading. Tokens are mapped on first use, so that it pickles small.

    The index arrays are mapped anew by each access: they are read once, and a mapping that is
    kept would stay in the process's resident memory.
    """

    prefix: Path
    dtype: str
    num_items: int
    num_document_bounds: int
    num_tokens: int
    has_mask: bool

    @classmethod
    def open(cls, prefix: Path) -> "TokenFile":
        """Open and check ``prefix.idx`` against ``prefix.bin``, in blocks and so in little memory.

        Raises:
            DataError: a file is missing, cut short, not of this format, or the two disagree.
        """
        path = sibling(prefix, ".idx")
        code, num_items, num_bounds = _read_header(path)
        size = _size(sibling(prefix, ".bin"))
        dtype = np.dtype(DTYPES[code])
        mask_path = sibling(prefix, ".mask.bin")
        file = cls(
            prefix=prefix,
            dtype=dtype.str,
            num_items=num_items,
            num_document_bounds=num_bounds,
            num_tokens=size // dtype.itemsize,
            has_mask=mask_path.exists(),
        )
        _check_items(file, path, size)
        _check_documents(file, path)
        if file.has_mask and _size(mask_path) != file.num_tokens:
            raise _bad(mask_path, f"{_size(mask_path)} bytes", f"must have {file.num_tokens} bytes")
        return file

    @property
    def sizes(self) -> Array:
        """Tokens of each item, int32 [N]."""
        return self._index_array("<i4", HEADER.size, self.num_items)

    @property
    def pointers(self) -> Array:
        """Byte offset of each item in ``.bin``, int64 [N]."""
        return self._index_array("<i8", HEADER.size + 4 * self.num_items, self.num_items)

    @property
    def documents(self) -> Array:
        """Items before each document, int64 [D], from 0 to N."""
        return self._index_array("<i8", HEADER.size + 12 * self.num_items, self.num_document_bounds)

    @property
    def fingerprint(self) -> str:
        """Identity of the data, cheap: SHA-256 of ``.idx`` and of the size of ``.bin``.

        Tokens replaced under the same items are not seen; they are too many to read at each start.
        """
        with sibling(self.prefix, ".idx").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(struct.pack("<Q", _size(sibling(self.prefix, ".bin"))))
        return digest.hexdigest()

    def item_start(self, item: int) -> int:
        """Tokens before an item; ``item`` may be N, which gives all tokens."""
        if item == self.num_items:
            return self.num_tokens
        return int(self.pointers[item]) // np.dtype(self.dtype).itemsize

    def tokens(self, start: int, stop: int) -> Array:
        """Tokens ``start`` to ``stop`` of the whole file, in the file's dtype, not copied."""
        return self._tokens[start:stop]

    def mask(self, start: int, stop: int) -> Array:
        """1 where the loss of predicting that token counts, uint8; all ones without a mask."""
        if self.has_mask:
            return self._mask[start:stop]
        return np.ones(stop - start, dtype=np.uint8)

    @cached_property
    def _tokens(self) -> Array:
        return _map(sibling(self.prefix, ".bin"), self.dtype, 0, self.num_tokens)

    @cached_property
    def _mask(self) -> Array:
        return _map(sibling(self.prefix, ".mask.bin"), "u1", 0, self.num_tokens)

    def _index_array(self, dtype: str, offset: int, count: int) -> Array:
        return _map(sibling(self.prefix, ".idx"), dtype, offset, count)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class TokenFileWriter:
    """Writes a token file piece by piece; it appears under its name only when it is whole.

    As a context manager: leaving it cleanly publishes the files, an exception discards them.
    """

    def __init__(self, prefix: Path, *, vocab_size: int, with_mask: bool = False) -> None:
        self._dtype = np.dtype(np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32)
        self._sizes = array("i")
        self._documents = array("q", [0])
        self._with_mask = with_mask
        suffixes = [".bin", ".idx", *([".mask.bin"] if with_mask else [])]
        self._staged = _StagedFiles(prefix, suffixes=suffixes, folder=prefix.parent)

    def add(self, tokens: Sequence[int], mask: Sequence[int] | None = None) -> None:
        """Append one item; ``mask`` has as many entries, 1 where the loss counts."""
        assert (mask is not None) == self._with_mask
        self._staged.files[".bin"].write(np.asarray(tokens, dtype=self._dtype).tobytes())
        if mask is not None:
            assert len(mask) == len(tokens)
            self._staged.files[".mask.bin"].write(np.asarray(mask, dtype=np.uint8).tobytes())
        self._sizes.append(len(tokens))

    def end_document(self) -> None:
        """End the document that the items since the last call form."""
        self._documents.append(len(self._sizes))

    @property
    def num_documents(self) -> int:
        """Documents ended so far."""
        return len(self._documents) - 1

    def __enter__(self) -> Self:
        self._staged.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._staged.discard()
            return
        assert self._documents[-1] == len(self._sizes), "a document was not ended"
        sizes = np.frombuffer(self._sizes, dtype=np.int32)
        ends = np.cumsum(sizes, dtype=np.int64) * self._dtype.itemsize
        index = self._staged.files[".idx"]
        index.write(_header(self._dtype, len(sizes), len(self._documents)))
        index.write(sizes.astype("<i4").tobytes())
        index.write((ends - sizes.astype(np.int64) * self._dtype.itemsize).astype("<i8").tobytes())
        index.write(np.frombuffer(self._documents, dtype=np.int64).astype("<i8").tobytes())
        self._staged.publish()


def concatenate(parts: Sequence[TokenFile], prefix: Path, *, staging: Path) -> None:
    """Join token files of one dtype into a new one, streaming; ``staging`` is on the same disk."""
    dtype = np.dtype(parts[0].dtype)
    assert all(part.dtype == parts[0].dtype for part in parts)
    suffixes = [".bin", *([".mask.bin"] if parts[0].has_mask else [])]
    staged = _StagedFiles(prefix, suffixes=[*suffixes, ".idx"], folder=staging)
    staged.open()
    try:
        for suffix in suffixes:
            for part in parts:
                with sibling(part.prefix, suffix).open("rb") as source:
                    shutil.copyfileobj(source, staged.files[suffix], 1 << 20)
        num_items = sum(part.num_items for part in parts)
        num_bounds = 1 + sum(part.num_document_bounds - 1 for part in parts)
        index = staged.files[".idx"]
        index.write(_header(dtype, num_items, num_bounds))
        for part in parts:
            index.write(part.sizes.tobytes())
        byte_offset = 0
        for part in parts:
            index.write((part.pointers + byte_offset).tobytes())
            byte_offset += part.num_tokens * dtype.itemsize
        item_offset = 0
        index.write(bytes(8))
        for part in parts:
            index.write((part.documents[1:] + item_offset).tobytes())
            item_offset += part.num_items
    except BaseException:
        staged.discard()
        raise
    staged.publish()


class _StagedFiles:
    """Files written under passing names and renamed together, the index last.

    A reader needs the index, so it sees the old files, none, or the new ones.
    """

    def __init__(self, prefix: Path, *, suffixes: Iterable[str], folder: Path) -> None:
        self._prefix = prefix
        self._suffixes = tuple(suffixes)
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self.files: dict[str, BinaryIO] = {}

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(self.discard)
            for suffix in self._suffixes:
                # A random name: two pods on one volume may well share a process id.
                name = f".{self._prefix.name}.{secrets.token_hex(4)}{suffix}"
                self.files[suffix] = (self._folder / name).open("xb")
                self._paths[suffix] = self._folder / name
            stack.pop_all()

    def publish(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        sibling(self._prefix, ".idx").unlink(missing_ok=True)
        sibling(self._prefix, ".mask.bin").unlink(missing_ok=True)
        for suffix in sorted(self._paths, key=lambda suffix: suffix == ".idx"):
            self._paths[suffix].replace(sibling(self._prefix, suffix))
        _sync_folder(self._prefix.parent)

    def discard(self) -> None:
        for file in self.files.values():
            file.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def _header(dtype: np.dtype[Any], num_items: int, num_bounds: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, WRITABLE[dtype.name], num_items, num_bounds)


def _read_header(path: Path) -> tuple[int, int, int]:
    """Dtype code, items and document bounds; the file's length agrees with them."""
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise _bad(path, f"{size} bytes", f"must begin with a header of {HEADER.size} bytes")
    magic, version, code, num_items, num_bounds = HEADER.unpack(head)
    if magic != MAGIC:
        raise _bad(path, f"{magic!r} at byte 0", f"must begin with {MAGIC!r} (dataset-impl mmap)")
    if version != VERSION:
        raise _bad(path, f"version {version} at byte 9", f"must be version {VERSION}")
    if code not in DTYPES:
        raise _bad(path, f"dtype code {code} at byte 17", f"must be one of {sorted(DTYPES)}")
    expected = HEADER.size + 12 * num_items + 8 * num_bounds
    if size != expected:
        raise _bad(
            path,
            f"ends at byte {size}",
            f"must have {expected} bytes for {num_items} items and {num_bounds} document bounds",
        )
    return code, num_items, num_bounds


def _check_items(file: TokenFile, path: Path, bin_size: int) -> None:
    """No negative size; items follow each other without a gap and fill ``.bin`` exactly."""
    itemsize = np.dtype(file.dtype).itemsize
    sizes_at, pointers_at = HEADER.size, HEADER.size + 4 * file.num_items
    position = 0
    for start, count in _blocks(file.num_items):
        sizes = _read(path, "<i4", sizes_at + 4 * start, count).astype(np.int64)
        pointers = _read(path, "<i8", pointers_at + 8 * start, count)
        if sizes.min() < 0:
            place = int(np.argmax(sizes < 0))
            where = f"size {sizes[place]} at byte {sizes_at + 4 * (start + place)}"
            raise _bad(path, where, "must have no negative size")
        ends = position + np.cumsum(sizes) * itemsize
        wrong = pointers != ends - sizes * itemsize
        if wrong.any():
            place = int(np.argmax(wrong))
            where = f"pointer {pointers[place]} at byte {pointers_at + 8 * (start + place)}"
            raise _bad(path, where, "must point at the end of the item before")
        position = int(ends[-1])
    if position != bin_size:
        raise _bad(
            sibling(file.prefix, ".bin"),
            f"ends at byte {bin_size}",
            f"must have the {position} bytes that the index points into",
        )


def _check_documents(file: TokenFile, path: Path) -> None:
    """Bounds start at 0, never fall and end at N."""
    offset = HEADER.size + 12 * file.num_items
    before = 0
    for start, count in _blocks(file.num_document_bounds):
        bounds = _read(path, "<i8", offset + 8 * start, count)
        if start == 0 and bounds[0] != 0:
            raise _bad(path, f"byte {offset}", "must have document bounds that start at 0")
        falls = np.diff(bounds, prepend=before) < 0
        if falls.any():
            where = f"byte {offset + 8 * (start + int(np.argmax(falls)))}"
            raise _bad(path, where, "must have document bounds that never fall")
        before = int(bounds[-1])
    if file.num_document_bounds == 0 or before != file.num_items:
        where = f"{before} at byte {offset + 8 * (file.num_document_bounds - 1)}"
        raise _bad(path, where, f"must have a last document bound of {file.num_items}")


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, ITEMS_PER_BLOCK):
        yield start, min(ITEMS_PER_BLOCK, count - start)


def _read(path: Path, dtype: str, offset: int, count: int) -> Array:
    """Read, not mapped: mapped pages would count as this process's memory."""
    return np.fromfile(path, dtype=dtype, count=count, offset=offset)


def _map(path: Path, dtype: str, offset: int, count: int) -> Array:
    if count == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise _bad(path, "no such file", "must exist") from error


def _bad(path: Path, seen: str, rule: str) -> DataError:
    return DataError(
        str(path), seen=seen, rule=rule, fix="write the token files again (preprocess)"
    )


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
