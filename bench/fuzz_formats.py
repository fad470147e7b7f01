"""Damaged and hostile weight and token files: each must be read or refused, fast, in little memory.

For every format a few whole files are made and damaged at random: cut short, bits flipped, lengths
made huge, bytes inserted, parts swapped. A PanguError is a refusal; any other exception, a slow
input, one that needs much memory, or one that runs foreign code is a failure, and its bytes are
kept. The same seed gives the same inputs. Run it from the checkout:

    python bench/fuzz_formats.py [--count 10000] [--format mindspore ...]
"""

import io
import os
import pickle
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from pangu_core.checkpoint.formats.mindspore import ckpt, wire
from pangu_core.checkpoint.formats.mindspore.strategy import read_strategy
from pangu_core.checkpoint.formats.npy import stored_file
from pangu_core.checkpoint.tensor_file import Entry, TensorFile, TensorWriter
from pangu_core.checkpoint.torch_files.reading import TorchFile
from pangu_core.checkpoint.torch_files.values import TensorRef
from pangu_core.data.token_files import TokenFile, TokenFileWriter
from pangu_core.errors import PanguError

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 512 << 20  # of address space, above what the imports took
# What an audit hook sees when a file runs code.
FOREIGN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
)
TABLE = np.arange(24, dtype=np.float32).reshape(6, 4)


class Bomb:
    """Unpickled by Python's own machine, it runs a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo this file ran code",)


@dataclass(frozen=True)
class Target:
    """A format: whole files to begin with, and what reads one."""

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], None]


@dataclass
class Tally:
    """What became of the inputs of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def mindspore_seeds(folder: Path) -> list[bytes]:
    """Float tensors, one of them in slices, a scalar, an integer, and a text."""
    out = io.BytesIO()
    for dtype in ("fp32", "fp16", "bf16"):
        tensor = torch.from_numpy(TABLE).to(ckpt.DTYPES[dtype].torch)
        ckpt.write_tensor(out, f"backbone.blocks.0.{dtype}", tensor, dtype)
    for start in range(0, 96, 32):
        out.write(ckpt.value_head("sliced", (6, 4), "Float32", 32))
        out.write(TABLE.tobytes()[start : start + 32])
    out.write(ckpt.value_head("global_step", (), "Int32", 4) + bytes(4))
    out.write(ckpt.value_head("note", (0,), "str", 5) + b"hello")
    return [out.getvalue()]


def read_mindspore(path: Path) -> None:
    """Every tensor that could be a weight."""
    for place in ckpt.index(path).values():
        if place.dtype in ckpt.DTYPES:
            ckpt.read(path, place)


def strategy_seeds(folder: Path) -> list[bytes]:
    """Three parameters of 8 ranks."""
    items = b""
    for name, tensor_map, step, size in (
        ("a", (0, -1), 4, -1),
        ("b", (-1, 1), 0, 0),
        ("c", (2,), 1, 2),
    ):
        dims = [b"".join(wire.varint_field(1, d) for d in row) for row in ((2, 2, 2), tensor_map)]
        layout = wire.bytes_field(1, dims[0]) + wire.bytes_field(2, dims[1])
        layout += wire.varint_field(6, step) + wire.varint_field(7, size)
        item = wire.bytes_field(1, name.encode()) + wire.bytes_field(2, layout)
        items += wire.bytes_field(3, item)
    return [wire.varint_field(1, 1) + items]


def read_cuts(path: Path) -> None:
    """The cuts, and where each rank's piece would lie."""
    for cut in read_strategy(path).values():
        piece = (3,) * len(cut.tensor_map)
        cut.whole_shape(piece)
        for rank in range(min(cut.num_ranks, 64)):
            cut.part(rank, piece)


def npy_seeds(folder: Path) -> list[bytes]:
    """Arrays of several dtypes and orders, and one of objects."""
    arrays = (TABLE, TABLE.astype(">f2"), np.asfortranarray(TABLE), np.array(["text"], object))
    files = [io.BytesIO() for _ in arrays]
    for file, array in zip(files, arrays, strict=True):
        np.save(file, array, allow_pickle=True)
    return [file.getvalue() for file in files]


def read_npy(path: Path) -> None:
    """The array, if it could be a weight."""
    stored = stored_file(path)
    if stored.dtype in ckpt.DTYPES:
        stored.read()


def torch_seeds(folder: Path) -> list[bytes]:
    """The port's layout in both kinds of file, and bombs of every pickle protocol."""
    content = {
        "model": {"weight": torch.from_numpy(TABLE), "half": torch.ones(3).half()},
        "iteration": 7,
    }
    seeds = []
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=is_zip)
        seeds.append(file.getvalue())
        file = io.BytesIO()
        torch.save(
            {"model": content["model"], "args": Bomb()}, file, _use_new_zipfile_serialization=is_zip
        )
        seeds.append(file.getvalue())
    return seeds + [pickle.dumps(Bomb(), protocol) for protocol in range(6)]


def read_torch(path: Path) -> None:
    """The content, and every tensor in it."""
    file = TorchFile(path)
    todo = [file.content]
    for _ in range(1_000):
        if not todo:
            return
        value = todo.pop()
        if isinstance(value, TensorRef):
            file.array(value)
        elif isinstance(value, dict):
            todo.extend(value.values())


def safetensors_seeds(folder: Path) -> list[bytes]:
    """Two tensors of our own making."""
    path = folder / "seed.safetensors"
    with TensorWriter(path, [Entry("a", (6, 4), "fp32"), Entry("b", (2,), "int64")], {}) as writer:
        writer.write("a", torch.from_numpy(TABLE))
        writer.write("b", torch.arange(2))
    return [path.read_bytes()]


def read_safetensors(path: Path) -> None:
    """Every tensor's bytes."""
    file = TensorFile(path)
    for name in file.names():
        file.raw(name).sum()


def idx_seeds(folder: Path) -> list[bytes]:
    """The index of three documents; its tokens stay as they are beside it."""
    with TokenFileWriter(folder / "input", vocab_size=100) as writer:
        for length in (3, 1, 5):
            writer.add(range(length))
            writer.end_document()
    return [(folder / "input.idx").read_bytes()]


def read_idx(path: Path) -> None:
    """The index and all tokens."""
    file = TokenFile.open(path.with_suffix(""))
    for item in range(min(file.num_items, 100)):
        file.tokens(file.item_start(item), file.item_start(item + 1)).sum()


TARGETS = {
    "mindspore": Target(mindspore_seeds, read_mindspore),
    "strategy": Target(strategy_seeds, read_cuts),
    "npy": Target(npy_seeds, read_npy),
    "torch": Target(torch_seeds, read_torch),
    "safetensors": Target(safetensors_seeds, read_safetensors),
    "idx": Target(idx_seeds, read_idx),
}


def damage(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One input: a seed with one to three damages."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        kind = chance.choice(["cut", "flip", "huge", "insert", "remove", "swap"])
        if kind == "cut":
            del data[at:]
        elif kind == "flip":
            data[at : at + 1] = bytes([(data[at : at + 1] or b"\0")[0] ^ 1 << chance.randrange(8)])
        elif kind == "huge":
            width = chance.choice([1, 2, 4, 8])
            value = chance.choice([1, 1 << 7, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
            data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == "insert":
            data[at:at] = chance.randbytes(chance.randint(1, 16))
        elif kind == "remove":
            del data[at : at + chance.randint(1, 16)]
        else:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            data[at : at + 32] = other[start : start + 32]
    return bytes(data)


def try_one(
    target: Target, path: Path, data: bytes, tally: Tally, foreign: list[str]
) -> str | None:
    """Read one input; returns what is wrong with how that went."""
    path.write_bytes(data)
    started, num_foreign = time.monotonic(), len(foreign)
    try:
        target.read(path)
        tally.outcomes["read"] += 1
    except PanguError:
        tally.outcomes["refused"] += 1
    except Exception as error:
        tally.outcomes["failed"] += 1
        return f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    tally.slowest_seconds = max(tally.slowest_seconds, seconds)
    if len(foreign) > num_foreign:
        return f"ran {foreign[-1]}"
    return f"took {seconds:.1f} s" if seconds > LIMIT_SECONDS else None


def fuzz(name: str, count: int, seed: int, kept: Path, foreign: list[str]) -> Tally:
    """``count`` inputs of one format; those that failed are written to ``kept``."""
    target, tally, chance = TARGETS[name], Tally(), random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.idx"
        seeds = target.seeds(Path(folder))
        for number in range(count):
            data = seeds[number] if number < len(seeds) else damage(seeds, chance)
            problem = try_one(target, path, data, tally, foreign)
            if problem is not None:
                kept.mkdir(parents=True, exist_ok=True)
                (kept / f"{name}-{number}").write_bytes(data)
                tally.failures.append(f"{name}-{number}: {problem}")
    return tally


def address_space() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@click.command()
@click.option("--count", default=10_000, show_default=True, help="Inputs, over all formats.")
@click.option("--format", "names", multiple=True, type=click.Choice(list(TARGETS)))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--keep", type=click.Path(path_type=Path), default=Path("build/fuzz"), show_default=True
)
def main(count: int, names: tuple[str, ...], seed: int, keep: Path) -> None:
    """Print a row for each format; exit 1 if any input failed."""
    names = names or tuple(TARGETS)
    foreign: list[str] = []
    sys.addaudithook(lambda event, _: foreign.append(event) if event in FOREIGN else None)
    limit = address_space() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("format       inputs    read  refused  failed  slowest")
    failures = []
    for name in names:
        tally = fuzz(name, -(-count // len(names)), seed, keep, foreign)
        read, refused, failed = (tally.outcomes[key] for key in ("read", "refused", "failed"))
        inputs = tally.outcomes.total()
        print(
            f"{name:11s} {inputs:7d} {read:7d} {refused:8d} {failed:7d} {tally.slowest_seconds:6.3f} s"
        )
        failures += tally.failures
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"peak resident memory {peak / 1e6:.0f} MB, limit {LIMIT_BYTES / 1e6:.0f} MB for an input"
    )
    print("\n".join(failures[:20]))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
