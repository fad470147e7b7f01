"""Writes one rank's part of a checkpoint, and commits a finished folder."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.manifest import (
    FILE_NAME,
    MODEL,
    VOCABULARY_FILE,
    Header,
    Manifest,
    StoredSlice,
    Vocabulary,
    parse,
)
from pangu_core.checkpoint.tensor_file import Entry, Tally, TensorWriter, dtype_name, untold
from pangu_core.layout import Shape, Slice


@dataclass(frozen=True)
class Piece:
    """One tensor's part that this rank stores."""

    key: str  # <group>/<parameter>
    shape: Shape  # of the whole tensor
    part: Slice
    tensor: torch.Tensor  # exactly the part; on any device


def file_name(kind: str, rank: int) -> str:
    """Name of one rank's file; ``kind`` is model or optimizer."""
    return f"{kind}-{rank:05d}.safetensors"


def kind_of(key: str) -> str:
    """Weights and moments lie in separate files, so that serving can copy the weights alone."""
    return "model" if key.startswith(f"{MODEL}/") else "optimizer"


def write_shard(
    folder: Path, rank: int, pieces: Iterable[Piece], tally: Tally = untold
) -> list[StoredSlice]:
    """Write a rank's pieces into the folder, weights and moments in a file each.

    ``tally`` is told of bytes as they are written.

    Raises:
        OSError: the volume refused.
    """
    files: dict[str, list[Piece]] = {}
    for piece in pieces:
        files.setdefault(kind_of(piece.key), []).append(piece)
    stored = []
    for kind, group in files.items():
        stored += _write_file(folder / file_name(kind, rank), group, tally)
    return stored


def slices_metadata(parts: Iterable[tuple[str, Shape, Slice]]) -> dict[str, str]:
    """Each tensor's global shape and part, for the file's header: a shard explains itself."""
    return {"slices": json.dumps({key: [shape, part] for key, shape, part in parts})}


def commit(
    temporary: Path,
    final: Path,
    *,
    header: Header,
    step: int,
    slices: Iterable[StoredSlice],
    vocabulary: Path | None,
) -> str:
    """Add vocabulary and manifest to a folder of shards, then give it its name.

    Returns the SHA-256 of the manifest. Raises:
        CheckpointError: the slices do not make up the model.
        OSError: the volume refused.
    """
    stored = sorted(slices, key=lambda s: (s.file, s.key))
    copied = None
    if vocabulary is not None:
        digest = durable.copy_file(vocabulary, temporary / VOCABULARY_FILE)
        copied = Vocabulary(VOCABULARY_FILE, digest)
    manifest = Manifest(**vars(header), step=step, vocabulary=copied, slices=tuple(stored))
    path = temporary / FILE_NAME
    data = manifest.to_json()
    parse(data, str(path))  # never commit what could not be read back
    durable.write_bytes(path, data)
    durable.publish(temporary, final)
    return durable.sha256(data)


def _write_file(path: Path, pieces: Sequence[Piece], tally: Tally) -> list[StoredSlice]:
    entries = [Entry(p.key, tuple(p.tensor.shape), dtype_name(p.tensor.dtype)) for p in pieces]
    metadata = slices_metadata((p.key, p.shape, p.part) for p in pieces)
    stored = []
    with TensorWriter(path, entries, metadata, tally) as writer:
        for piece, entry in zip(pieces, entries, strict=True):
            digest = writer.write(piece.key, piece.tensor)
            stored.append(
                StoredSlice(piece.key, path.name, piece.shape, piece.part, entry.dtype, digest)
            )
    return stored
