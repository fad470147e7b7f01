"""Peak memory of split and merge at 8 and 32 layers of hidden 1024.

Each measurement is a fresh process with the imports done: a thread samples its anonymous memory
(/proc/self/status, RssAnon) every millisecond while the work runs, and the value before is taken
off. The limit is 3 x the largest tensor + 64 MB. Run it from the checkout:

    python bench/reshard_memory.py [--folder FOLDER] [--layers 8 --layers 32]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import click
import torch

from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Header, key_of
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.stream import Incoming, Target, reshard, write_stream
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.layout import parameter_shapes

HIDDEN, VOCABULARY = 1024, 40_000
LARGEST_BYTES = 4 * HIDDEN * VOCABULARY
LIMIT_BYTES = 3 * LARGEST_BYTES + 64 * 1024**2
VERBS = {"split": 4, "merge": 1}  # -> tensor-parallel size of the target


def write_source(folder: Path, num_layers: int) -> None:
    """A checkpoint with moments, of random numbers, in fp32."""
    model = ModelConfig(num_layers=num_layers, hidden_size=HIDDEN, num_heads=16)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key_of(group, name): Incoming(
            shape, "fp32", lambda shape=shape: torch.rand(shape, generator=generator)
        )
        for group in (MODEL, *MOMENTS)
        for name, shape in parameter_shapes(model).items()
    }
    header = Header(model=model, run=RunIdentity(name="bench", uid="bench"))
    write_stream(Target(folder, header), tensors)


def anonymous_bytes() -> int:
    """This process's anonymous memory: what no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not report RssAnon")


def measure(source: Path, target: Path, tp: int) -> dict[str, float]:
    """Peak growth of anonymous memory, and seconds, of one rewriting with its moments."""
    idle, peak, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    start = time.monotonic()
    reshard(Checkpoint.open(source), target, tp=tp, optimizer=True)
    seconds = time.monotonic() - start
    done.set()
    sampler.join()
    return {"bytes": peak - idle, "seconds": seconds}


def in_fresh_process(source: Path, target: Path, tp: int) -> dict[str, float]:
    """Run ``measure`` where no earlier work left memory behind."""
    command = [sys.executable, __file__, "--measure", str(source), str(target), str(tp)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where 20 GB fit; default: /tmp.")
@click.option("--layers", type=int, multiple=True, default=(8, 32), show_default=True)
@click.option("--measure", "measured", type=(Path, Path, int), hidden=True)
def main(
    folder: Path | None, layers: tuple[int, ...], measured: tuple[Path, Path, int] | None
) -> None:
    """Print a table of peaks; exit 1 if one is over the limit or they differ by over 10 %."""
    if measured:
        print(json.dumps(measure(*measured)))
        return
    peaks: dict[str, list[float]] = {verb: [] for verb in VERBS}
    print(f"limit {LIMIT_BYTES / 1e6:.0f} MB (largest tensor {LARGEST_BYTES / 1e6:.0f} MB)")
    print("layers  verb   checkpoint  peak MB  seconds")
    for num_layers in layers:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            work = Path(name)
            write_source(work / "source", num_layers)
            size = sum(file.stat().st_size for file in (work / "source").iterdir())
            chain = ["source", *VERBS]
            for (before, verb), tp in zip(pairwise(chain), VERBS.values(), strict=True):
                row = in_fresh_process(work / before, work / verb, tp)
                peaks[verb].append(row["bytes"])
                peak, seconds = row["bytes"] / 1e6, row["seconds"]
                print(f"{num_layers:6d}  {verb}  {size / 1e9:7.2f} GB  {peak:7.1f}  {seconds:7.1f}")
    is_good = all(
        max(values) <= LIMIT_BYTES and max(values) <= 1.1 * min(values) for values in peaks.values()
    )
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
