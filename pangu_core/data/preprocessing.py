"""A corpus to token files, in parallel; killed at any time, it goes on where it stopped.

The corpus is cut into chunks of whole documents. Workers write each chunk's tokens as a small
token file into a work folder beside the output; a chunk that is there is not done again. At the
end the chunks are joined in order, so the result does not depend on workers, kills or restarts.
``prefix.done`` is written last and says which inputs and settings the output is of.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from pangu_core.data.documents import Format, Piece, plan_chunks, read_documents
from pangu_core.data.token_files import TokenFile, TokenFileWriter, concatenate, sibling
from pangu_core.data.tokenizer import Tokenizer, load_tokenizer
from pangu_core.errors import ConfigError, DataError

# Small chunks balance the workers, few chunks spare the file system.
SMALLEST_CHUNK_BYTES: Final = 1 << 19
LARGEST_CHUNK_BYTES: Final = 16 << 20
CHUNKS_AT_MOST: Final = 4096


@dataclass(frozen=True)
class Encoding:
    """What is done with each document."""

    form: Format
    json_key: str
    split_sentences: bool
    append_eod: bool
    tokenizer: Path


@dataclass(frozen=True)
class Corpus:
    """What to preprocess and where to put it."""

    files: tuple[Path, ...]
    """Read in this order."""
    output: Path
    """Prefix of the token files."""
    encoding: Encoding
    fingerprint: str
    """Of inputs and settings: a work folder of another one is not continued."""
    num_workers: int


@dataclass(frozen=True)
class Report:
    """How far it is, or at the end what was done."""

    num_bytes: int = 0
    """Bytes of text read."""
    total_bytes: int = 0
    """Bytes of text in all."""
    reused_bytes: int = 0
    """Bytes of text whose chunks were there from an earlier run."""
    num_documents: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of text a second, the reused ones left out."""
        return (self.num_bytes - self.reused_bytes) / 1e6 / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Chunk:
    """One unit of work: pieces of the corpus, and the prefix of their tokens."""

    pieces: tuple[Piece, ...]
    prefix: Path
    encoding: Encoding

    @property
    def num_bytes(self) -> int:
        """Bytes of text in it."""
        return sum(piece.num_bytes for piece in self.pieces)


@dataclass(frozen=True)
class _Plan:
    """The chunks in order, and where they are kept until all are done."""

    key: str
    chunks: tuple[Chunk, ...]
    work: Path
    done: Path

    @property
    def is_done(self) -> bool:
        """Whether the output is said to be of this very plan."""
        return self.done.exists() and self.done.read_text() == self.key


def preprocess(corpus: Corpus, *, on_progress: Callable[[Report], None]) -> Report:
    """Write ``corpus.output`` and call ``on_progress`` after every chunk.

    Raises:
        ConfigError: a file cannot be read as documents, or there is no document at all.
        DataError: a worker was killed.
    """
    begin = time.monotonic()
    plan = _plan(corpus)
    report = Report(total_bytes=sum(chunk.num_bytes for chunk in plan.chunks))
    if plan.is_done and (output := _finished(corpus.output)):
        shutil.rmtree(plan.work, ignore_errors=True)
        return _reused(report, report.total_bytes, output)
    _clear_other_work(plan)
    finished = {chunk: file for chunk in plan.chunks if (file := _finished(chunk.prefix))}
    for chunk, file in finished.items():
        report = _reused(report, chunk.num_bytes, file)
    on_progress(report)
    for chunk in _encode(
        [chunk for chunk in plan.chunks if chunk not in finished], num_workers=corpus.num_workers
    ):
        finished[chunk] = TokenFile.open(chunk.prefix)
        report = _add(report, chunk.num_bytes, finished[chunk])
        report = replace(report, seconds=time.monotonic() - begin)
        on_progress(report)
    if not report.num_documents:
        raise ConfigError(
            "data.input",
            seen=f"{len(corpus.files)} files, {report.total_bytes} bytes",
            rule="must hold at least one document",
            fix="name files with text in them",
        )
    _commit(plan, [finished[chunk] for chunk in plan.chunks], corpus.output)
    return replace(report, seconds=time.monotonic() - begin)


def encode_chunk(chunk: Chunk) -> None:
    """Write the tokens of one chunk; runs in a worker."""
    tokenizer = _tokenizer(chunk.encoding.tokenizer)
    with TokenFileWriter(chunk.prefix, vocab_size=tokenizer.vocab_size) as writer:
        for piece in chunk.pieces:
            for document in read_documents(
                piece, form=chunk.encoding.form, json_key=chunk.encoding.json_key
            ):
                for item in _items(document, tokenizer, chunk.encoding):
                    writer.add(item)
                writer.end_document()


def _items(document: str, tokenizer: Tokenizer, encoding: Encoding) -> list[list[int]]:
    parts = [document]
    if encoding.split_sentences:
        # Imported here because NLTK takes a second to load.
        from pangu_core.data.sentences import split_sentences

        parts = split_sentences(document)
    items = [tokenizer.encode(part) for part in parts]
    if encoding.append_eod:
        items[-1].append(tokenizer.eod_id)
    return items


def _plan(corpus: Corpus) -> _Plan:
    total = sum(path.stat().st_size for path in corpus.files)
    chunk_bytes = min(max(total // CHUNKS_AT_MOST, SMALLEST_CHUNK_BYTES), LARGEST_CHUNK_BYTES)
    pieces = plan_chunks(corpus.files, form=corpus.encoding.form, chunk_bytes=chunk_bytes)
    key = hashlib.sha256(repr((corpus.fingerprint, pieces)).encode()).hexdigest()[:16]
    work = corpus.output.with_name(f".{corpus.output.name}.work-{key}")
    chunks = tuple(
        Chunk(chunk, work / f"{index:06d}", corpus.encoding) for index, chunk in enumerate(pieces)
    )
    return _Plan(key, chunks, work, done=sibling(corpus.output, ".done"))


def _clear_other_work(plan: _Plan) -> None:
    """Make the work folder, and remove those of other inputs or settings."""
    plan.work.mkdir(parents=True, exist_ok=True)
    stem = plan.work.name.removesuffix(plan.key)
    for folder in plan.work.parent.iterdir():
        if folder.name.startswith(stem) and folder != plan.work:
            shutil.rmtree(folder, ignore_errors=True)


def _commit(plan: _Plan, parts: Sequence[TokenFile], output: Path) -> None:
    """Publish the joined chunks; killed anywhere, the next run has all that it needs."""
    plan.done.unlink(missing_ok=True)
    concatenate(parts, output, staging=plan.work)
    passing = plan.work / "done"
    passing.write_text(plan.key)
    passing.replace(plan.done)
    shutil.rmtree(plan.work)


def _finished(prefix: Path) -> TokenFile | None:
    """Tokens of an earlier run, if they are there and whole."""
    if not sibling(prefix, ".idx").exists():
        return None
    try:
        return TokenFile.open(prefix)
    except DataError:
        return None


def _reused(report: Report, num_bytes: int, file: TokenFile) -> Report:
    added = _add(report, num_bytes, file)
    return replace(added, reused_bytes=report.reused_bytes + num_bytes)


def _add(report: Report, num_bytes: int, file: TokenFile) -> Report:
    return replace(
        report,
        num_bytes=report.num_bytes + num_bytes,
        num_documents=report.num_documents + file.num_document_bounds - 1,
        num_tokens=report.num_tokens + file.num_tokens,
    )


def _encode(chunks: Sequence[Chunk], *, num_workers: int) -> Iterator[Chunk]:
    """Encode chunks in worker processes; yields each when its files are there."""
    if not chunks:
        return
    with _workers(min(num_workers, len(chunks))) as pool:
        futures: dict[Future[None], Chunk] = {
            pool.submit(encode_chunk, chunk): chunk for chunk in chunks
        }
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise DataError(
                "preprocessing worker",
                seen="a worker process was killed",
                rule="must live to the end of its chunk; most often memory ran out",
                fix="give more memory or fewer workers, and run again: finished chunks are kept",
            ) from error


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end at once when this block or this process ends, however it does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # loaded once, not once a worker
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(reader,)
    )
    try:
        yield pool
        pool.shutdown()
    finally:
        writer.close()
        pool.shutdown(cancel_futures=True)
        reader.close()


def _start_worker(lifeline: Connection) -> None:
    """Leave signals to the parent, and end when the other end of ``lifeline`` closes."""

    def watch() -> None:
        lifeline.poll(None)  # nothing is ever sent: it returns when the parent is gone
        os._exit(1)

    # A terminal, and whoever stops a process group, signals workers too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


@cache
def _tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)
