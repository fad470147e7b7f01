"""kill -9 during asynchronous saves at random moments: is any checkpoint bad, is more than one lost?

A child, forked from this process with everything imported, makes steps that write their number into
every element of a state of tens of MB, and saves every third of them in the background. It is killed
at a random moment; then the newest checkpoint is loaded, every byte hashed, every number compared
with its step, and the next child goes on from there. Run it from the checkout:

    python bench/checkpoint_kills.py [--kills 1000] [--folder FOLDER] [--seed N]
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from pangu_core.checkpoint.manifest import FILE_NAME, MODEL, MOMENTS, Header, key_of
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.saver import Request, Saver
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.store import Store, load_newest
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import PanguError
from pangu_core.layout import parameter_shapes, whole

MODEL_SIZES = ModelConfig(
    num_layers=3, hidden_size=224, num_heads=4, vocab_size=2000, sequence_length=64
)
HEADER = Header(model=MODEL_SIZES, run=RunIdentity(name="bench", uid="bench"))
INTERVAL = 3  # steps between saves
SPANS = 1.2  # a kill comes within so many times what a child needs to commit twice


@dataclass(frozen=True)
class Fate:
    """What one kill left."""

    moment: str
    found: int | None  # the newest step that loads; None: the load was bad
    begun: int  # the newest step whose save had begun; 0: none by this child


def fresh_state() -> dict[str, torch.Tensor]:
    """Weights and moments of zeros."""
    return {
        key_of(group, name): torch.zeros(shape)
        for group in (MODEL, *MOMENTS)
        for name, shape in parameter_shapes(MODEL_SIZES).items()
    }


def pieces_of(state: dict[str, torch.Tensor]) -> list[Piece]:
    """All of the state, as one rank stores it."""
    return [Piece(k, tuple(t.shape), whole(tuple(t.shape)), t) for k, t in state.items()]


def train(root: Path, state: dict[str, torch.Tensor], step: int, begun: int) -> None:
    """Make steps until killed; ``begun`` is a file that holds the newest step being saved."""
    store, pieces = Store(root), pieces_of(state)
    saver = Saver(store, staging=Staging(), after_commit=lambda saved: store.prune(2))
    while True:
        step += 1
        for tensor in state.values():
            tensor.fill_(step)
        if saver.in_flight and saver.is_idle:
            saver.advance()
        if step % INTERVAL == 0:
            if saver.in_flight:
                saver.finish()
            os.pwrite(begun, step.to_bytes(8, "little"), 0)
            saver.begin(Request(step, HEADER), pieces)


def load_whole(checkpoint: Checkpoint) -> int:
    """The step, after every byte was hashed and every number seen to be of it."""
    step = checkpoint.manifest.step
    for stored in checkpoint.manifest.slices:
        if not torch.all(checkpoint.read(stored.key, whole(stored.shape)) == step):
            raise SystemExit(f"{checkpoint.folder}: {stored.key} is not of step {step}")
    return step


def moment_of(root: Path) -> str:
    """Where in a save the kill came, by what it left."""
    if list(root.glob("replaced-*")):
        return "between the two renames"
    temporaries = list(root.glob("tmp-step-*"))
    if not temporaries:
        return "between two saves"
    newest = max(temporaries, key=lambda path: path.stat().st_mtime)
    if not list(newest.iterdir()):
        return "while the state was copied"
    return "while committing" if (newest / FILE_NAME).exists() else "while shards were written"


def fork_trainer(root: Path, state: dict[str, torch.Tensor], step: int, begun: int) -> int:
    """A child that goes on from a step; returns its process id."""
    os.ftruncate(begun, 0)
    child = os.fork()
    if not child:
        try:
            train(root, state, step, begun)
        finally:
            os._exit(1)
    return child


def kill(child: int) -> None:
    """End a child as the kernel does when memory is short."""
    os.kill(child, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        raise SystemExit("a child ended by itself")


def kill_once(
    root: Path, state: dict[str, torch.Tensor], newest: int, begun: int, seconds: float
) -> Fate:
    """Fork a child, kill it after so many seconds, load what is there."""
    child = fork_trainer(root, state, newest, begun)
    time.sleep(seconds)
    kill(child)
    last = int.from_bytes(os.pread(begun, 8, 0), "little")
    try:
        return Fate(moment_of(root), load_newest(Store(root), load_whole), last)
    except PanguError as error:
        print(error, file=sys.stderr)
        return Fate(moment_of(root), None, last)


def seconds_of_two_saves(root: Path, state: dict[str, torch.Tensor], begun: int) -> float:
    """From the start of a child until it has committed twice, the better of two tries."""
    tries = []
    for _ in range(2):
        start, before = time.monotonic(), committed(root)
        child = fork_trainer(root, state, before, begun)
        while committed(root) < before + 2 * INTERVAL:
            time.sleep(0.001)
        tries.append(time.monotonic() - start)
        kill(child)
    return min(tries)


def committed(root: Path) -> int:
    """The newest step that has a folder, 0 if there is none."""
    return max((int(path.name[5:]) for path in root.glob("step-*")), default=0)


@click.command()
@click.option("--kills", default=1000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to save; default: /tmp.")
@click.option("--seed", default=0, show_default=True)
def main(kills: int, folder: Path | None, seed: int) -> None:
    """Print how many kills hit what, and exit 1 if a load was bad or an interval too many lost."""
    torch.set_num_threads(1)  # a forked child cannot use the parent's pool of threads
    chance, state, fates = random.Random(seed), fresh_state(), []
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        Path(name, "begun").open("wb+") as begun,
    ):
        root = Path(name, "checkpoints")
        span = seconds_of_two_saves(root, state, begun.fileno())
        print(f"state {size / 1e6:.1f} MB, a child commits twice in {span * 1000:.0f} ms")
        newest = committed(root)
        for _ in range(kills):
            seconds = chance.uniform(0, SPANS * span)
            fate = kill_once(root, state, newest, begun.fileno(), seconds)
            fates.append((newest, fate))
            newest = newest if fate.found is None else fate.found
    bad = sum(fate.found is None for _, fate in fates)
    back = sum(fate.found is not None and fate.found < before for before, fate in fates)
    lost = sum(fate.found is not None and fate.found < fate.begun - INTERVAL for _, fate in fates)
    print(f"{'the kill came':28s}  kills")
    for moment, count in Counter(fate.moment for _, fate in fates).most_common():
        print(f"{moment:28s}  {count:5d}")
    print(f"{'all':28s}  {len(fates):5d}  in {time.monotonic() - began:.0f} s")
    print(f"bad loads {bad}, steps back {back}, more than one interval lost {lost}")
    print(f"newest checkpoint: step {newest}")
    sys.exit(1 if bad or back or lost else 0)


if __name__ == "__main__":
    main()
