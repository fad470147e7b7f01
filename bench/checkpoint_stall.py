"""How long a save keeps training waiting: asynchronous and not, beside a step's own time.

Trains a network on random tokens through the real loop, saves every few steps, and takes the times
from its heartbeats and metrics. The copy is predicted from the machine's own bandwidth, measured
first. Runs on a GPU where there is one. From the checkout:

    python bench/checkpoint_stall.py [--hidden 512] [--layers 5] [--every 8] [--folder FOLDER]

Let --every be so large that a save is over before the next one.
"""

import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch

from pangu_core.checkpoint.manifest import MODEL, MOMENTS
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.layout import parameter_shapes
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests
from pangu_core.workspace import WORKSPACE_VARIABLE

LENGTH = 128


class Clock(Heartbeat):
    """Remembers when each step ended."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.ends: list[float] = []

    def beat(self, phase: str, **values: object) -> None:
        """Note the end of a step."""
        super().beat(phase, **values)
        if phase == "step":
            self.ends.append(time.monotonic())


@dataclass(frozen=True)
class Plan:
    """What is trained, and when it is saved."""

    model: ModelConfig
    batch: int
    every: int  # steps between saves
    saves: int

    @property
    def steps(self) -> int:
        """Enough to end the last save; what is saved at the end is not measured."""
        return self.every * (self.saves + 1) - 1


@dataclass(frozen=True)
class Times:
    """Seconds."""

    alone: list[float]  # steps while no save is under way
    beside: list[float]  # steps while files are written
    after: list[float]  # the step after which a save begins, to the end of the next one
    stalls: list[float]  # as the metrics tell
    saves: list[float]  # from begin to commit


def make_workspace(folder: Path, vocabulary: int) -> None:
    """Random token files, and a stand-in for a vocabulary."""
    draw = np.random.default_rng(0)
    with TokenFileWriter(folder / "tokens", vocab_size=vocabulary) as writer:
        writer.add(draw.integers(10, vocabulary, 100 * LENGTH).tolist())
        writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")


def train(folder: Path, plan: Plan, *, asynchronous: bool) -> Times:
    """Train through the product's own loop."""
    name = "asynchronous" if asynchronous else "waiting"
    config = TrainConfig.model_validate(
        {
            "run": {"name": name, "uid": name},
            "model": plan.model.dump(),
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": "100,0,0"},
            "train": {
                "steps": plan.steps, "globalBatchSize": plan.batch, "microBatchSize": plan.batch,
                "precision": "bf16" if torch.cuda.is_available() else "fp32",
                "attentionDropout": 0.0, "hiddenDropout": 0.0,
                "checkpoint": {"everySteps": plan.every, "keep": 1, "asynchronous": asynchronous},
            },
        }
    )  # fmt: skip
    clock = Clock(plan.steps)
    Loop(Session.open(config, topology(1)), stop=StopRequests(), heartbeat=clock).run()
    lines = (folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "save"][: plan.saves]
    times = Times([], [], [], [e["stall_seconds"] for e in events], [e["seconds"] for e in events])
    busy = [(clock.ends[e["step"] - 1], clock.ends[e["step"] - 1] + e["seconds"]) for e in events]
    for start, end in list(pairwise(clock.ends))[2:]:  # the first ones warm up
        if any(start == began for began, _ in busy):
            times.after.append(end - start)
        elif any(began < start and end < over for began, over in busy):
            times.beside.append(end - start)
        elif not any(began < end and start < over for began, over in busy):
            times.alone.append(end - start)
    return times


def copy_bandwidth(num_bytes: int) -> float:
    """Bytes a second that a copy of such a size reaches, into memory that was touched before."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=device == "cuda")
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        target.copy_(source)
        seconds.append(time.monotonic() - start)
    return num_bytes / min(seconds)


def report(name: str, times: Times, num_bytes: int) -> None:
    """Print one way of saving; the first save takes its memory, so it stands apart."""
    step, later = statistics.median(times.alone), statistics.median(times.stalls[1:])
    seen = statistics.median(times.after[1:]) - step
    print(f"{name}:")
    print(f"  step without a save          {step * 1000:9.1f} ms")
    if times.beside:
        print(f"  step while files are written {statistics.median(times.beside) * 1000:9.1f} ms")
    print(f"  stall of the first save      {times.stalls[0] * 1000:9.1f} ms")
    print(
        f"  stall of a later save        {later * 1000:9.1f} ms"
        f"  = {later / step:.3f} of a step, {num_bytes / later / 1e9:.2f} GB/s"
    )
    print(f"  seen in the next step's time {seen * 1000:9.1f} ms")
    print(f"  from begin to commit         {statistics.median(times.saves) * 1000:9.1f} ms")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where to save; default: /tmp.")
@click.option("--hidden", default=512, show_default=True)
@click.option("--layers", default=5, show_default=True)
@click.option("--vocabulary", default=8000, show_default=True)
@click.option("--batch", default=2, show_default=True, help=f"Sequences of {LENGTH} a step.")
@click.option("--every", default=8, show_default=True, help="Steps between saves.")
@click.option("--saves", default=5, show_default=True)
def main(folder: Path | None, vocabulary: int, **sizes: int) -> None:
    """Print both ways of saving, and the prediction."""
    model = ModelConfig(
        num_layers=sizes["layers"],
        hidden_size=sizes["hidden"],
        num_heads=sizes["hidden"] // 64,
        vocab_size=vocabulary,
        sequence_length=LENGTH,
    )
    plan = Plan(model, sizes["batch"], sizes["every"], sizes["saves"])
    elements = sum(math.prod(shape) for shape in parameter_shapes(model).values())
    num_bytes = 4 * elements * len((MODEL, *MOMENTS))
    bandwidth = copy_bandwidth(num_bytes)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}: {elements / 1e6:.1f} M parameters, state {num_bytes / 1e6:.0f} MB")
    print(f"copy {bandwidth / 1e9:.2f} GB/s: predicted stall {num_bytes / bandwidth * 1000:.1f} ms")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        os.environ[WORKSPACE_VARIABLE] = name
        make_workspace(Path(name), vocabulary)
        for asynchronous in (True, False):
            times = train(Path(name), plan, asynchronous=asynchronous)
            report("asynchronous" if asynchronous else "waiting", times, num_bytes)


if __name__ == "__main__":
    main()
