"""Tokenizer throughput against the plain path (jieba + SentencePiece), each from a cold start.

Each measurement is a process of its own that imports, loads its dictionary (jieba without its
cache file) and encodes every line. The ids of both are compared on the way.
"""

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pangu_core.data.vocabulary import VOCABULARY_NAME, cache_folder

CORPORA = ("peoples_daily.txt", "pos.txt", "neg.txt")


def plain_encoder(vocabulary: Path, scratch: str) -> Callable[[str], list[int]]:
    """The published recipe, as its authors wrote it down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's source has invalid escapes
        import jieba
    import sentencepiece

    jieba.setLogLevel(logging.ERROR)
    jieba.dt.tmp_dir = scratch  # an empty folder: no cached dictionary
    processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    marks = str.maketrans(" \n", "\u2582\u2583")

    def encode(text: str) -> list[int]:
        words = " ".join(word.translate(marks) for word in jieba.cut(text, cut_all=False))
        ids: list[int] = processor.encode(words)
        return ids

    return encode


def our_encoder(vocabulary: Path) -> Callable[[str], list[int]]:
    from pangu_core.data.tokenizer import load_tokenizer

    return load_tokenizer(vocabulary).encode


def measure(path: str, corpora: list[Path], vocabulary: Path) -> dict[str, Any]:
    """Seconds from before the imports to the last id, and what the ids were."""
    lines = [line for corpus in corpora for line in corpus.read_text("utf-8").split("\n")]
    with tempfile.TemporaryDirectory() as scratch:
        start, cpu_start = time.perf_counter(), time.process_time()
        ours = path == "ours"
        encode = our_encoder(vocabulary) if ours else plain_encoder(vocabulary, scratch)
        encoded = [encode(line) for line in lines]
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "characters": sum(map(len, lines)),
        "ids": sum(map(len, encoded)),
        "digest": digest(encoded),
    }


def digest(encoded: list[list[int]]) -> str:
    """SHA-256 of the ids as 16-bit numbers, 65535 after each line (tests hold these)."""
    return hashlib.sha256(
        b"".join(array("H", [*ids, 65535]).tobytes() for ids in encoded)
    ).hexdigest()


def in_a_fresh_process(path: str, corpora: list[Path], vocabulary: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", path, "--vocabulary", str(vocabulary)]
    done = subprocess.run([*command, *map(str, corpora)], check=True, capture_output=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(corpora: list[Path], vocabulary: Path, repeat: int) -> bool:
    """Print one comparison, the fastest of ``repeat`` runs each; return whether the ids agree."""
    paths = ("plain", "ours")
    runs = {path: in_a_fresh_process(path, corpora, vocabulary) for path in paths}
    for _ in range(repeat - 1):
        for path in paths:
            again = in_a_fresh_process(path, corpora, vocabulary)
            runs[path] = min(runs[path], again, key=lambda run: run["seconds"])
    plain, ours = runs["plain"], runs["ours"]
    same = bool(plain["digest"] == ours["digest"])
    print(f"{', '.join(corpus.name for corpus in corpora)}: {plain['characters']:,} characters")
    for path in paths:
        rate = runs[path]["characters"] / runs[path]["seconds"] / 1e6
        cpu = f"{runs[path]['cpu_seconds']:6.2f} s of CPU"
        print(f"  {path:<6} {runs[path]['seconds']:6.2f} s  {cpu}  {rate:5.2f} M characters/s")
    ratio = plain["seconds"] / ours["seconds"]
    cpu_ratio = plain["cpu_seconds"] / ours["cpu_seconds"]
    agreement = f"{ours['ids']:,} ids, all the same" if same else "THE IDS DIFFER"
    # On a busy machine the ratio of CPU time is the one to trust.
    print(f"  ratio  {ratio:6.2f}    {cpu_ratio:6.2f} of CPU    {agreement}")
    print(f"  digest {plain['digest']}")
    return same


@click.command()
@click.option("--vocabulary", type=click.Path(path_type=Path), default=None)
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, help="runs each; the fastest counts"
)
@click.option("--measure", "path", type=click.Choice(["plain", "ours"]), hidden=True)
@click.argument("corpora", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(vocabulary: Path | None, repeat: int, path: str | None, corpora: tuple[Path, ...]) -> None:
    """Compare on each of CORPORA and on all together (default: the fetched ones)."""
    vocabulary = vocabulary or cache_folder() / VOCABULARY_NAME
    files = list(corpora or (cache_folder() / name for name in CORPORA))
    if path:
        print(json.dumps(measure(path, files, vocabulary)))
        return
    groups = [[file] for file in files] + ([files] if len(files) > 1 else [])
    agreed = [compare(group, vocabulary, repeat) for group in groups]
    if not all(agreed):
        sys.exit(1)


if __name__ == "__main__":
    main()
