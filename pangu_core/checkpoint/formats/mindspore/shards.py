"""A distributed MindSpore checkpoint: one file a rank, put together by its strategy file.

Either the published release, ``filerted_0.ckpt`` to ``filerted_511.ckpt`` with the three tables
as npy files, or the ``rank_<r>`` folders of a training run.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import torch

from pangu_core.checkpoint.formats.mindspore import ckpt
from pangu_core.checkpoint.formats.mindspore.ckpt import Place
from pangu_core.checkpoint.formats.mindspore.names import key_of_original, original_name
from pangu_core.checkpoint.formats.mindspore.strategy import Cut, read_strategy, refusal
from pangu_core.checkpoint.formats.mindspore.tensors import Stored, refuse_pipeline_graph
from pangu_core.checkpoint.formats.npy import stored_file
from pangu_core.checkpoint.manifest import tiles_exactly
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import Shape, Slice, relative, whole

# The code writes the first; its documents say the others.
_SHARD: Final = re.compile(r"(?:filerted|filtered|filitered)_(\d{1,6})\.ckpt")
_RANK_FOLDER: Final = re.compile(r"rank_(\d{1,6})")
# MindSpore ends the name of each checkpoint with its epoch and step.
_STEP: Final = re.compile(r"-(\d+)_(\d+)\.ckpt")
_TABLES: Final = {
    "word_embedding.npy": original_name("word_embedding.weight"),
    "position_embedding.npy": original_name("position_embedding.weight"),
    "top_query_embedding.npy": original_name("query_embedding.weight"),
}
_STRATEGY_GLOB: Final = "*strategy*.ckpt"
_MOMENT: Final = re.compile(r"adam_[mv]\.")


@dataclass(frozen=True)
class Source:
    """The files of a distributed checkpoint."""

    shards: Mapping[int, Path]  # by rank
    strategy: Path
    tables: Mapping[str, Path]  # the embeddings beside the shards, by their original names


def is_sharded(folder: Path) -> bool:
    """Whether a folder holds shards."""
    return folder.is_dir() and any(_shard_rank(path) is not None for path in folder.iterdir())


def find(folder: Path, strategy: Path | None = None) -> Source:
    """Every rank's file, the strategy file and the tables.

    Raises:
        ConfigError: no strategy file, or more than one, or the 200B network.
        CheckpointError: a rank is there twice, or a rank's folder has no file to choose.
    """
    shards: dict[int, Path] = {}
    folders: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        rank = _shard_rank(path)
        if rank is None:
            continue
        known = folders if path.is_dir() else shards
        if rank in shards or rank in folders:
            seen = f"{path.name} and {(shards | folders)[rank].name}"
            raise _damaged(folder, seen, f"must hold rank {rank} once")
        known[rank] = path
    if shards and folders:
        seen = f"{next(iter(shards.values())).name} and {next(iter(folders.values())).name}"
        raise _damaged(folder, seen, "must hold either one release or one run")
    shards = shards or _files_of_one_step(folder, folders)
    first = shards[min(shards)]
    refuse_pipeline_graph(folder, ckpt.index(first))
    tables = {name: folder / file for file, name in _TABLES.items() if (folder / file).is_file()}
    return Source(shards, strategy or _only_strategy(folder, first.parent), tables)


def stored(source: Source) -> dict[str, Stored]:
    """Every tensor that is a weight or a moment, to be put together when its turn comes.

    Raises:
        CheckpointError: a shard is missing or damaged, or does not fit the strategy.
    """
    cuts = read_strategy(source.strategy)
    num_ranks = next(iter(cuts.values())).num_ranks
    _check_ranks(source, num_ranks)
    places = [ckpt.index(source.shards[rank]) for rank in range(num_ranks)]
    pieces = cache(partial(_pieces, source.strategy))  # most tensors are cut like many others
    found_beside = {None, *map(key_of_original, source.tables)}
    tensors = {}
    for name, first in places[0].items():
        if key_of_original(name) not in found_beside:
            cut = _cut_of(source, cuts, name)
            tensors[name] = _tensor(source, name, cut, pieces(cut, first.shape), places)
    return tensors | {name: stored_file(path) for name, path in source.tables.items()}


def _pieces(strategy: Path, cut: Cut, piece: Shape) -> dict[Slice, int]:
    """Each part of a tensor and the first rank that has it."""
    if len(piece) != len(cut.tensor_map):
        raise refusal(strategy, str(cut), f"must cut tensors like those of shape {piece}")
    pieces: dict[Slice, int] = {}
    for rank in range(cut.num_ranks):
        pieces.setdefault(cut.part(rank, piece), rank)
    if not tiles_exactly(cut.whole_shape(piece), pieces):
        rule = f"must cover {cut.whole_shape(piece)} by {piece} without overlap or gap"
        raise refusal(strategy, str(cut), rule)
    return pieces


def _tensor(
    source: Source,
    name: str,
    cut: Cut,
    pieces: Mapping[Slice, int],
    places: list[dict[str, Place]],
) -> Stored:
    """One tensor, after a look at the pieces that it will be made of."""
    first = places[0][name]
    for rank in pieces.values():
        found = places[rank].get(name)
        if found is None or (found.shape, found.dtype) != (first.shape, first.dtype):
            seen = f"{name} of {found.dtype} {found.shape}" if found else f"no {name}"
            raise _damaged(source.shards[rank], seen, f"must hold {first.dtype} {first.shape}")
    parts = [(part, source.shards[rank], places[rank][name]) for part, rank in pieces.items()]
    shape = cut.whole_shape(first.shape)
    return Stored(f"{source.shards[0]}: {name}", shape, first.dtype, partial(_join, shape, parts))


def _join(shape: Shape, parts: Iterable[tuple[Slice, Path, Place]]) -> torch.Tensor:
    """Put a tensor together; one file is open at a time."""
    result: torch.Tensor | None = None
    for part, path, place in parts:
        piece = ckpt.read(path, place)
        if result is None:
            result = torch.empty(shape, dtype=piece.dtype)
        result[relative(part, whole(shape))] = piece
    assert result is not None, "a tensor has at least one part"
    return result


def _cut_of(source: Source, cuts: Mapping[str, Cut], name: str) -> Cut:
    """A tensor's cut; a moment that is not listed was cut like its parameter."""
    cut = cuts.get(name) or cuts.get(_MOMENT.sub("", name))
    if cut is None:
        raise refusal(source.strategy, f"nothing of {name}", "must say how each tensor was cut")
    return cut


def _check_ranks(source: Source, num_ranks: int) -> None:
    missing = [rank for rank in range(num_ranks) if rank not in source.shards]
    if missing:
        seen = f"{len(missing)} of {num_ranks} shards missing, the first of rank {missing[0]}"
        folder = next(iter(source.shards.values())).parent
        raise _damaged(folder, seen, f"{source.strategy.name} is of {num_ranks} ranks")
    surplus = [path for rank, path in source.shards.items() if rank >= num_ranks]
    if surplus:
        rule = f"{source.strategy.name} is of {num_ranks} ranks only"
        raise _damaged(surplus[0], f"a shard of rank {num_ranks} or higher", rule)


def _shard_rank(path: Path) -> int | None:
    match = _SHARD.fullmatch(path.name) or _RANK_FOLDER.fullmatch(path.name)
    return int(match[1]) if match else None


def _files_of_one_step(folder: Path, ranks: Mapping[int, Path]) -> dict[int, Path]:
    """The file of each rank's folder: of the newest step that all have, or the only one."""
    files = {rank: _checkpoints(path) for rank, path in ranks.items()}
    steps = [{_step(path) for path in paths} - {None} for paths in files.values()]
    common = set.intersection(*steps) if steps else set()
    newest = max((step for step in common if step), default=None)
    chosen = {}
    for rank, paths in files.items():
        fitting = [path for path in paths if newest is None or _step(path) == newest]
        if len(fitting) != 1:
            names = ", ".join(path.name for path in fitting) or "no checkpoint file"
            raise _damaged(folder, f"rank_{rank}: {names}", "must hold one of a step that all have")
        chosen[rank] = fitting[0]
    return chosen


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(set(folder.glob("*.ckpt")) - set(folder.glob(_STRATEGY_GLOB)))


def _step(path: Path) -> tuple[int, int] | None:
    match = _STEP.search(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _only_strategy(folder: Path, first_rank: Path) -> Path:
    """The strategy file beside the shards, or in the first rank's folder, where runs write it."""
    found = sorted(folder.glob(_STRATEGY_GLOB)) or sorted(first_rank.glob(_STRATEGY_GLOB))
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        "strategy",
        seen=", ".join(path.name for path in found) or f"no {_STRATEGY_GLOB} in {folder}",
        rule="the shards do not say how the tensors were cut",
        fix="name the run's strategy file with --strategy FILE",
    )


def _damaged(where: Path, seen: str, rule: str) -> CheckpointError:
    return CheckpointError(str(where), seen=seen, rule=rule, fix="copy the shards again")
