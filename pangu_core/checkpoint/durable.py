"""Files and folders that are whole or invisible, even after a crash.

Writes go to the disk before the name that makes them visible: data, fsync, rename, fsync of the
parent folder. Used by everything that writes checkpoints.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

TEMPORARY_PREFIX: Final = "tmp-"
REPLACED_PREFIX: Final = "replaced-"
COPY_BYTES: Final = 1 << 20
logger = logging.getLogger(__name__)


def new_temporary(parent: Path, name: str) -> Path:
    """Make an empty folder beside the final one, under a name that nobody reads or reuses."""
    folder = parent / f"{TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    return folder


def remove_temporaries(parent: Path, name: str = "") -> None:
    """Remove what unfinished writers of ``name``, or of any name, left behind."""
    wanted = re.compile(f"{TEMPORARY_PREFIX}{re.escape(name) or '.*'}-[0-9a-f]{{12}}")
    for path in list(parent.iterdir()) if parent.is_dir() else ():
        if wanted.fullmatch(path.name):
            logger.info("removing %s, left by an unfinished writer", path)
            remove_folder(path)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole: a reader sees the old one or the new one."""
    replace_text(path, json.dumps(value, ensure_ascii=False, indent=1))


def replace_text(path: Path, text: str) -> None:
    """Replace a UTF-8 file as a whole, as ``replace_json``."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        write_bytes(temporary, text.encode())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def copy_file(source: Path, target: Path) -> str:
    """Copy a file to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(COPY_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; a folder that has the name already is replaced.

    A rename cannot replace a folder that is not empty, so the old one steps aside first, under
    ``replaced-<name>``: killed between the two renames, one of them is still there to be found.
    """
    fsync_folder(temporary)
    aside = final.with_name(f"{REPLACED_PREFIX}{final.name}")
    if final.exists():
        remove_folder(aside)
        final.rename(aside)
    temporary.rename(final)
    fsync_folder(final.parent)
    remove_folder(aside)


def remove_folder(folder: Path) -> None:
    """Remove a folder at its name at once; a failure is logged, for it harms no reader."""
    if not folder.is_dir():
        return
    doomed = folder
    if not folder.name.startswith(TEMPORARY_PREFIX):
        doomed = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{uuid.uuid4().hex[:12]}")
        folder.rename(doomed)
    try:
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("could not remove %s: %s", doomed, error)


def sha256(data: bytes) -> str:
    """SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()
