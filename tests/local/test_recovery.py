"""A real job on this machine: real launchers and ranks, real kills, the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.launch.rank_names import read_rank_name
from pangu_core.layout import whole

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300
SETTINGS = (
    "model.hiddenSize=16", "model.numLayers=2", "model.sequenceLength=32",
    "train.steps=24", "train.checkpoint.everySteps=4", "train.globalBatchSize=2",
    "train.microBatchSize=2", "train.evaluate.batches=1", "train.logEverySteps=1",
)  # fmt: skip


class Job:
    """``pangu run examples/tiny-cpu.yaml`` with a small network, as a child process."""

    def __init__(self, workspace: Path, corpora: Path, *more: str) -> None:
        (workspace / "corpus").mkdir()
        text = (corpora / "peoples_daily.txt").read_text(encoding="utf-8")[:60_000]
        (workspace / "corpus/peoples_daily.txt").write_text(text, encoding="utf-8")
        self.workspace = workspace
        self.run = workspace / "runs/tiny-cpu"
        overrides = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
        command = [str(Path(sys.executable).with_name("pangu")), "run", "examples/tiny-cpu.yaml"]
        self.process = subprocess.Popen(
            [*command, "--workspace", str(workspace), *overrides],
            cwd=CHECKOUT,
            env={**os.environ, "PANGU_TOKENIZER": str(corpora / "vocab.model")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def metrics(self) -> list[dict]:
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for_step(self, step: int) -> None:
        limit = time.monotonic() + PATIENCE_SECONDS
        while not any(e["event"] == "step" and e["step"] >= step for e in self.metrics()):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < limit, f"step {step} was not reached"
            time.sleep(0.02)

    def processes(self, module: str) -> list[psutil.Process]:
        """The job's live processes that run a module, oldest first."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        found = [p for p in family if p.is_running() and module in " ".join(p.cmdline())]
        return sorted(found, key=psutil.Process.create_time)

    def ranks(self) -> list[psutil.Process]:
        """The job's live training processes, spare ones left out, in rank order."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        places = {p: read_rank_name(p.name()) for p in family if p.is_running()}
        return sorted((p for p in places if places[p]), key=lambda p: places[p])

    def finish(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, output

    def final(self) -> dict[str, bytes]:
        """Every tensor of the final checkpoint, moments included."""
        checkpoint = Checkpoint.open(find_checkpoint(self.run / "checkpoints"))
        assert checkpoint.manifest.final
        shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
        return {k: checkpoint.read(k, whole(s)).numpy().tobytes() for k, s in shapes.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpora) -> dict[str, bytes]:
    job = Job(tmp_path_factory.mktemp("undisturbed"), corpora)
    code, output = job.finish()
    assert code == 0, output
    return job.final()


@pytest.fixture
def start(tmp_path, corpora):
    jobs = []

    def starter(*more: str) -> Job:
        jobs.append(Job(tmp_path, corpora, *more))
        return jobs[-1]

    yield starter
    for job in jobs:
        if job.process.poll() is None:
            job.process.kill()
        job.process.communicate()


def test_a_killed_rank_costs_nothing_but_time(start, undisturbed):
    job = start()
    job.wait_for_step(6)
    job.ranks()[-1].send_signal(signal.SIGKILL)
    code, output = job.finish()
    assert code == 0, output
    assert [e["step"] for e in job.metrics() if e["event"] == "start"] == [0, 4]
    assert job.final() == undisturbed


def test_a_killed_launcher_of_two_is_replaced(start, undisturbed):
    """One rank a pod: the tensor-parallel group spans two pods."""
    job = start("train.nodes.min=2", "train.nodes.max=2", "train.nodes.processesPerNode=1")
    job.wait_for_step(6)
    job.processes("pangu_core.entry.train")[0].send_signal(signal.SIGKILL)
    code, output = job.finish()
    assert code == 0, output
    assert job.final() == undisturbed


def test_a_killed_store_is_not_even_noticed(start, undisturbed):
    job = start()
    job.wait_for_step(6)
    job.processes("pangu_core.entry.store")[0].send_signal(signal.SIGKILL)
    code, output = job.finish()
    assert code == 0, output
    assert [e["step"] for e in job.metrics() if e["event"] == "start"] == [0]
    assert job.final() == undisturbed


def test_a_stopped_job_saves_and_goes_on_where_it_was(start, tmp_path, corpora, undisturbed):
    job = start()
    job.wait_for_step(6)
    job.process.send_signal(signal.SIGTERM)
    code, output = job.finish()
    assert code == 143, output
    saved = job.metrics()[-1]["step"]
    assert saved >= 6
    (tmp_path / "corpus/peoples_daily.txt").unlink()
    (tmp_path / "corpus").rmdir()
    again = start()
    code, output = again.finish()
    assert code == 0, output
    starts = [e["step"] for e in again.metrics() if e["event"] == "start"]
    assert starts == [0, saved]
    assert again.final() == undisturbed
