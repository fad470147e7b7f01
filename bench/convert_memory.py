"""Peak memory and time of converting files of 2.6B's real size, beside torch.load and torch.save.

Random fp16 weights are written one tensor at a time as a MindSpore ``.ckpt`` or as the port's
``model_optim_rng.pt`` (5.3 GB each), then each program below converts them in a fresh process: a
thread samples its anonymous memory (/proc/self/status, RssAnon) every 5 ms. The limit is 2 GB.
On a terminal the conversion shows its progress bar. Run it from the checkout; 16 GB of disk are
needed at a time:

    python bench/convert_memory.py [--folder FOLDER] [--source mindspore --source megatron]
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron.folder import find
from pangu_core.checkpoint.manifest import MODEL, Header, key_of
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.stream import Incoming
from pangu_core.config.model import PRESETS
from pangu_core.config.stages import ConvertConfig, RunIdentity
from pangu_core.entry import formats
from pangu_core.layout import Shape, parameter_shapes

RUN = RunIdentity(name="bench", uid="bench")
LIMIT_BYTES = 2_000_000_000
SAMPLE_SECONDS = 0.005
SOURCES = ("mindspore", "megatron")


def write_source(form: str, target: Path, preset: str) -> None:
    """Random weights in another format, by the product's own writer."""
    model = PRESETS[preset]
    generator = torch.Generator().manual_seed(0)

    def random(shape: Shape) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half()

    tensors = {
        key_of(MODEL, name): Incoming(shape, "fp16", lambda shape=shape: random(shape))
        for name, shape in parameter_shapes(model).items()
    }
    weights = Weights(header=Header(model=model, run=RUN, dtype="fp16"), tensors=tensors)
    request = Request(run=RUN, model=model)
    writer = formats.WRITERS[form]
    writer.write(weights, target, request=request, replace_old=False, report=silent)


def convert(source: Path, target: Path) -> None:
    """What ``pangu convert`` does."""
    config = ConvertConfig(run=RUN, source=str(source), target=str(target))
    formats.convert(source, target, config)


def load_and_save(source: Path, target: Path) -> None:
    """What the port's own tools do: the whole file in memory."""
    torch.save(torch.load(find(source).files[0], weights_only=True), target)


PROGRAMS: dict[str, Callable[[Path, Path], None]] = {
    "pangu convert": convert,
    "torch.load + torch.save": load_and_save,
}


def anonymous_bytes() -> int:
    """This process's anonymous memory: what no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not report RssAnon")


def measure(program: str, source: Path, target: Path) -> dict[str, float]:
    """Peak of anonymous memory, what the imports took included, and seconds."""
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, anonymous_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    start, cpu = time.monotonic(), time.process_time()
    PROGRAMS[program](source, target)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
    done.set()
    sampler.join()
    return {"bytes": peak, "seconds": seconds, "cpu_seconds": cpu_seconds}


def in_fresh_process(program: str, source: Path, target: Path) -> dict[str, float]:
    """Run ``measure`` where no earlier work left memory behind; its progress bar is shown."""
    command = [sys.executable, __file__, "--measure", program, str(source), str(target)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: dict[str, float] = json.loads(output)
    return row


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where 16 GB fit; default: /tmp.")
@click.option("--source", "sources", type=click.Choice(SOURCES), multiple=True, default=SOURCES)
@click.option("--preset", default="2.6B", show_default=True)
@click.option("--measure", "measured", type=(str, Path, Path), hidden=True)
def main(
    folder: Path | None,
    sources: tuple[str, ...],
    preset: str,
    measured: tuple[str, Path, Path] | None,
) -> None:
    """Print a table of peaks; exit 1 if a conversion is over the limit."""
    if measured:
        print(json.dumps(measure(*measured)))
        return
    print("source     program                     size GB  peak GB  seconds  CPU s", flush=True)
    is_good = True
    for form in sources:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            source = Path(name) / "source"
            write_source(form, source, preset)
            for program in PROGRAMS if form == "megatron" else ("pangu convert",):
                target = Path(name) / program.replace(" ", "")
                row = in_fresh_process(program, source, target)
                peak = row["bytes"]
                print(
                    f"{form:10s} {program:27s} {size_of(source) / 1e9:7.2f}  {peak / 1e9:7.2f}"
                    f"  {row['seconds']:7.1f}  {row['cpu_seconds']:5.1f}",
                    flush=True,
                )
                is_good = is_good and (program != "pangu convert" or peak <= LIMIT_BYTES)
                remove(target)  # makes room for the next program's result
    sys.exit(0 if is_good else 1)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main()
