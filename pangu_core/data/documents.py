"""Corpus files to documents, and to chunks of documents that workers read independently.

text: documents are separated by blank lines, single newlines stay (as the original's input).
jsonl: one object a line, with the document under one key.
"""

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pangu_core.errors import ConfigError

Format = Literal["text", "jsonl"]

# Where a file of either format may be cut without cutting a document.
BOUNDARY: Final = {"text": re.compile(rb"\n\r?\n"), "jsonl": re.compile(rb"\n")}
BLANK_LINES: Final = re.compile(r"\n{2,}")
BYTE_ORDER_MARK: Final = "\ufeff"


@dataclass(frozen=True)
class Piece:
    """A byte range of a corpus file that holds whole documents."""

    path: Path
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Length of the range."""
        return self.stop - self.start


def plan_chunks(
    files: Sequence[Path], *, form: Format, chunk_bytes: int
) -> list[tuple[Piece, ...]]:
    """Cut files into chunks of about ``chunk_bytes``, in order; a chunk may span small files."""
    chunks: list[tuple[Piece, ...]] = []
    open_chunk: list[Piece] = []
    open_bytes = 0
    for path in files:
        for piece in _cut(path, form=form, piece_bytes=chunk_bytes):
            open_chunk.append(piece)
            open_bytes += piece.num_bytes
            if open_bytes >= chunk_bytes:
                chunks.append(tuple(open_chunk))
                open_chunk, open_bytes = [], 0
    return [*chunks, tuple(open_chunk)] if open_chunk else chunks


def read_documents(piece: Piece, *, form: Format, json_key: str) -> Iterator[str]:
    """The documents of a piece, those of blanks only left out.

    Raises:
        ConfigError: the text is not UTF-8, or a line is not an object with that key.
    """
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        data = file.read(piece.num_bytes)
    documents = (
        _text_documents(_decode(data, piece.path, piece.start))
        if form == "text"
        else _json_documents(data, piece, json_key)
    )
    return (document for document in documents if document.strip())


def _cut(path: Path, *, form: Format, piece_bytes: int) -> Iterator[Piece]:
    size = path.stat().st_size
    if size == 0:  # an empty file cannot be mapped
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while start < size:
            found = BOUNDARY[form].search(data, start + piece_bytes)
            stop = found.end() if found else size
            yield Piece(path, start, stop)
            start = stop


def _text_documents(text: str) -> Iterator[str]:
    for document in BLANK_LINES.split(text.replace("\r\n", "\n")):
        yield document.strip("\n").lstrip(BYTE_ORDER_MARK + "\n")


def _json_documents(data: bytes, piece: Piece, json_key: str) -> Iterator[str]:
    offset = piece.start
    for line in data.splitlines(keepends=True):
        text = _decode(line, piece.path, offset).removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            yield _document_of(text, f"{piece.path}, line at byte {offset}", json_key)
        offset += len(line)


def _document_of(line: str, where: str, json_key: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(
            where, seen=line, rule=f"must be one JSON object a line ({error})", fix="mend the line"
        ) from error
    document = value.get(json_key) if isinstance(value, dict) else None
    if not isinstance(document, str):
        raise ConfigError(
            where,
            seen=line,
            rule=f"must be an object whose {json_key!r} is a string",
            fix="mend the line or name another key (jsonKey)",
        )
    return document


def _decode(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path),
            seen=f"{data[error.start : error.start + 4]!r} at byte {offset + error.start}",
            rule="must be UTF-8",
            fix="convert the file, for example with iconv -f GB18030 -t UTF-8",
        ) from error
