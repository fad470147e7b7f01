"""Seconds and page faults of one training step of a small model on CPU ranks; where time goes.

Two processes share one copy of the model (tensor parallel 2), each with half of the cores, as the
launcher starts them; batches are random numbers in documents. Run it from the checkout:

    python bench/training_step.py                  # with the heap kept, and as glibc does it
    python bench/training_step.py --profile        # and the operators that take the time
    python bench/training_step.py --compile        # layers compiled; or --sequence-parallel
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from pangu_core.config.model import ModelConfig
from pangu_core.config.train import OptimizerConfig
from pangu_core.data.batches import make_batch
from pangu_core.data.samples import Sample
from pangu_core.dist import process_group, topology
from pangu_core.launch.ranks import KEEP_HEAP
from pangu_core.model.compiling import compile_layers
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import initialise
from pangu_core.parallel.rng import DropoutKey
from pangu_core.rendezvous.ports import free_port
from pangu_core.training import optimizer as optimizing
from pangu_core.training.sharding import shard
from pangu_core.training.step import MicroBatch, Replica, train_step

RANKS: Final = 2
ROWS: Final = 2
DOCUMENT_TOKENS: Final = 100
MODEL: Final = ModelConfig(num_layers=4, hidden_size=128, num_heads=4, sequence_length=256)
WARM_UP_STEPS: Final = 5


def batch(step: int) -> MicroBatch:
    """Random tokens with an end of document every so often."""
    draw = np.random.default_rng(step)
    length = MODEL.sequence_length
    tokens = draw.integers(10, MODEL.vocab_size, (ROWS, length + 1))
    tokens[:, DOCUMENT_TOKENS::DOCUMENT_TOKENS] = 9
    samples = [Sample(row, np.ones(length, np.float32), n) for n, row in enumerate(tokens)]
    return 0, make_batch(samples, document_mask=True)


def steps(replica: Replica, first: int, count: int) -> float:
    """Make steps; returns the seconds of one."""
    batches = [batch(number) for number in range(first, first + count)]
    begin = time.perf_counter()
    for number, one in enumerate(batches, start=first):
        train_step(
            replica,
            [one],
            num_tokens=float(ROWS * MODEL.sequence_length),
            dropout=DropoutKey(1, number, 0),
            rate=1e-3,
            clip_norm=1.0,
        )
    return (time.perf_counter() - begin) / count


def page_faults() -> int:
    """Pages that the kernel had to bring in for this process; no other process changes it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@dataclass(frozen=True)
class Options:
    """What is measured."""

    steps: int
    profile: bool
    compile: bool
    sequence_parallel: bool

    def flags(self) -> list[str]:
        """The command line that means the same."""
        switches = ("profile", "compile", "sequence_parallel")
        chosen = [f"--{name.replace('_', '-')}" for name in switches if getattr(self, name)]
        return ["--steps", str(self.steps), *chosen]


def measure(options: Options) -> None:
    """One rank's part; the first rank prints."""
    count = options.steps
    with process_group():
        place = topology(RANKS)
        build = Build(
            place.tp,
            torch.float32,
            torch.bfloat16,
            sequence_parallel=options.sequence_parallel,
        )
        model = PanguModel(MODEL, build)
        if options.compile:
            compile_layers(model, place.device)
        initialise(model, seed=1)
        parameters = shard(model, place)
        optimizer = optimizing.build(parameters, OptimizerConfig())
        replica = Replica(model, parameters, optimizer, place)
        steps(replica, 0, WARM_UP_STEPS)
        faults_before = page_faults()
        seconds = steps(replica, WARM_UP_STEPS, count)
        faults = (page_faults() - faults_before) / count
        table = ""
        if options.profile:
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                steps(replica, WARM_UP_STEPS + count, 10)
            averages = profiled.key_averages()
            table = averages.table(sort_by="self_cpu_time_total", row_limit=15)
        if place.is_first:
            print(json.dumps({"seconds": seconds, "faults": faults, "table": table}))


def in_fresh_processes(options: Options, keep_heap: bool) -> dict[str, Any]:
    """Run the ranks; what the first one printed."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // RANKS))
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(RANKS)}
    base = {**os.environ, "OMP_NUM_THREADS": threads, **own, **(KEEP_HEAP if keep_heap else {})}
    command = [sys.executable, __file__, "--measure", *options.flags()]
    children = [
        subprocess.Popen(command, env={**base, "RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(RANKS)
    ]
    printed = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a rank failed")
    result: dict[str, Any] = json.loads(printed[0])
    return result


@click.command()
@click.option("--steps", default=50, show_default=True)
@click.option("--profile", is_flag=True, help="Print the operators of rank 0.")
@click.option("--compile", is_flag=True, help="Compile the layers.")
@click.option("--sequence-parallel", is_flag=True, help="Spread the stream by sequence.")
@click.option("--measure", "is_rank", is_flag=True, hidden=True)
def main(is_rank: bool, **chosen: Any) -> None:
    """Print the seconds of a step with the heap kept and without."""
    options = Options(**chosen)
    if is_rank:
        measure(options)
        return
    for name, keep_heap in (("as glibc does", False), ("heap kept", True)):
        run = options if keep_heap else replace(options, profile=False)
        result = in_fresh_processes(run, keep_heap)
        row = f"{result['seconds']:.3f} s and {result['faults']:,.0f} page faults a step"
        print(f"{name:14s} {row}")
        if result["table"]:
            print(result["table"])


if __name__ == "__main__":
    main()
