"""A gang of real launchers and gloo ranks on this machine, with a store that can be killed.

Plain module: tests use it through their fixtures, benches as ``tests.elastic.gang`` with the
checkout on the path. Everything that it started is ended, by pid, when it is closed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.request import urlopen

import numpy as np
import psutil

from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.messages import Termination
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.ports import free_port
from pangu_core.workspace import RunPaths

T = TypeVar("T")
CHECKOUT = Path(__file__).parents[2]
NAME = "gang"
PATIENCE_SECONDS = 240.0
# As quick as a loaded machine allows: a node that is merely starved must not count as lost.
QUICK = Timing(quiet=1.0, dead=3.0, hangup=0.5, recovery=3.0, growth=1.0)
VOCABULARY_SIZE = 64
SETTINGS: dict[str, Any] = {
    "model": {
        "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
        "vocabSize": VOCABULARY_SIZE, "sequenceLength": 16,
    },
    "data": {"split": "90,10,0"},
    "train": {
        "steps": 40, "globalBatchSize": 12, "microBatchSize": 1, "precision": "fp64",
        "attentionDropout": 0.0, "hiddenDropout": 0.0, "logEverySteps": 1, "logSamples": True,
        "checkpoint": {"everySteps": 5, "keep": 3}, "evaluate": {"everySteps": 1000, "batches": 1},
        # Long: a busy machine must not look like a stall.
        "hang": {"floorSeconds": 60.0}, "optimizer": {"learningRate": 0.01},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Rank:
    """A live training process."""

    pid: int
    rank: int
    round: int
    launcher: str


@dataclass(frozen=True)
class RoundChange:
    """A line of the store's log: a round began, drains, or broke."""

    number: int
    status: str
    members: tuple[str, ...]  # names, in rank order


class Gang:
    """One attempt: a store and launchers by name.

    Args:
        folder: an empty folder, or one of an earlier gang whose run goes on; becomes the workspace.
        tensor_parallel: M.
        processes: ranks of each launcher, P.
        low: fewest launchers in a round.
        high: most launchers in a round.
        timing: the store's; None: what is used in earnest.
        settings: merged over ``SETTINGS``; keys as in a config file.
        tokens: prefix of token files; default: random ids.
        grace_seconds: each pod's grace period.
        attempt: number of the attempt.
        environment: more variables for the launchers, and so for the ranks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensor_parallel: int = 1,
        processes: int = 1,
        low: int = 1,
        high: int = 1,
        timing: Timing | None = QUICK,
        settings: Mapping[str, Any] | None = None,
        tokens: Path | None = None,
        grace_seconds: int = 30,
        attempt: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.launchers: dict[str, subprocess.Popen[bytes]] = {}
        self.store: subprocess.Popen[bytes] | None = None
        self.timing, self.port = timing, free_port()
        self._started: list[subprocess.Popen[bytes]] = []
        nodes = {"min": low, "max": high, "processesPerNode": processes}
        given = {"train": {"tensorParallel": tensor_parallel, "nodes": nodes}}
        self.config = TrainConfig.model_validate(
            {
                "run": {"name": NAME, "uid": "u", "attempt": attempt},
                "tokenFiles": "tokens",
                "tokenizer": "vocab.model",
                **_merged(_merged(SETTINGS, given), settings or {}),
            }
        )
        self.attempt = attempt
        self.config_path = folder / f"train-{attempt}.yaml"
        self.config_path.write_text(json.dumps(self.config.dump()), encoding="utf-8")
        self._bring_tokens(tokens)
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PANGU_WORKSPACE": str(folder),
            "PANGU_CONFIG": str(self.config_path),
            "PANGU_PROGRESS_PORT": "0",
            "PANGU_GRACE_SECONDS": str(grace_seconds),
            "PET_RDZV_BACKEND": "pangu",
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{self.port}",
            "PET_RDZV_ID": f"u-{attempt}",
            "PET_NNODES": f"{low}:{high}",
            "PET_NPROC_PER_NODE": str(processes),
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bring_tokens(self, tokens: Path | None) -> None:
        (self.folder / "vocab.model").write_bytes(b"stands for a vocabulary")
        target = self.folder / "tokens"
        if target.with_suffix(".bin").exists():
            return
        if tokens is not None:
            for suffix in (".bin", ".idx"):
                shutil.copyfile(f"{tokens}{suffix}", f"{target}{suffix}")
            return
        draw = np.random.default_rng(5)
        with TokenFileWriter(target, vocab_size=VOCABULARY_SIZE) as writer:
            for _ in range(100):
                writer.add([int(t) for t in draw.integers(10, VOCABULARY_SIZE, 257)])
                writer.end_document()

    # Processes

    def start_store(self) -> None:
        """Start a store without memory, always on the same port."""
        command = [sys.executable, "-m", "pangu_core.entry.store"]
        if self.timing is not None:
            script = Path(__file__).with_name("quick_store.py")
            command = [sys.executable, str(script), json.dumps(asdict(self.timing))]
        self.store = self._spawn(command, "store", {"PANGU_STORE_PORT": str(self.port)})

    def kill_store(self) -> None:
        """Kill -9."""
        assert self.store is not None
        self.store.kill()
        self.store.wait()
        self.store = None

    def start(self, *names: str) -> None:
        """Start launchers; one that has ended comes back under its name, as a replaced pod does."""
        for name in names:
            before = self.launchers.get(name)
            assert before is None or before.poll() is not None, f"{name} still runs"
            (self.folder / "pods" / name).mkdir(parents=True, exist_ok=True)
            self._termination_path(name).unlink(missing_ok=True)
            self._termination_path(name).with_name("progress.port").unlink(missing_ok=True)
            own = {
                "PANGU_AGENT_NAME": name,
                "PANGU_AGENT_ADDRESS": "127.0.0.1",
                "PANGU_TERMINATION_PATH": str(self._termination_path(name)),
            }
            command = [sys.executable, "-m", "pangu_core.entry.train"]
            self.launchers[name] = self._spawn(command, name, own)

    def kill(self, name: str) -> None:
        """Kill -9 a launcher; its ranks die with it."""
        self.launchers[name].kill()
        self.launchers[name].wait()

    def replace(self, name: str) -> None:
        """Kill -9 a launcher and start its successor."""
        self.kill(name)
        self.start(name)

    def send(self, name: str, number: signal.Signals) -> None:
        """Signal a launcher, not its ranks."""
        self.launchers[name].send_signal(number)

    def exit(self, name: str) -> tuple[int, Termination | None]:
        """Wait for a launcher's end; exit code and last words."""
        code = self.launchers[name].wait(PATIENCE_SECONDS)
        path = self._termination_path(name)
        return code, Termination.from_json(path.read_text()) if path.exists() else None

    def exits(self) -> dict[str, int]:
        """Wait for the end of all launchers; exit codes by name."""
        return {name: self.exit(name)[0] for name in self.launchers}

    def ranks(self, name: str | None = None) -> list[Rank]:
        """Live training processes of one launcher, or of all, in rank order."""
        found = []
        for launcher in [name] if name else list(self.launchers):
            for process in _children(self.launchers[launcher].pid):
                variables = _environment_of(process)
                if "PANGU_ROUND" in variables:
                    rank, number = int(variables["RANK"]), int(variables["PANGU_ROUND"])
                    found.append(Rank(process.pid, rank, number, launcher))
        return sorted(found, key=lambda r: (r.round, r.rank))

    def close(self) -> None:
        """End everything that was started."""
        for process in self._started:
            doomed = _children(process.pid) if process.poll() is None else []
            process.kill()
            process.wait()
            for child in doomed:
                # The kernel kills them with their launcher; stopped ones too.
                child.wait(30)
        self._started.clear()

    def _spawn(
        self, command: list[str], name: str, variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={**self._environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    # What can be seen

    def log_path(self, name: str) -> Path:
        """The log of a launcher and its ranks, or of the store; all incarnations of the name."""
        return self.logs / f"{name}.log"

    def log(self, name: str) -> str:
        """The text of a log."""
        path = self.log_path(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def progress(self, name: str) -> dict[str, Any] | None:
        """What a launcher answers to /progress; None while it cannot be reached."""
        answer = self.get(name, "/progress")
        return None if answer is None else json.loads(answer)

    def get(self, name: str, path: str) -> str | None:
        """A page of a launcher's server; None while it cannot be reached."""
        port_file = self._termination_path(name).with_name("progress.port")
        try:
            url = f"http://127.0.0.1:{port_file.read_text()}{path}"
            with urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def metrics(self, event: str | None = None) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, of one event or all."""
        path = self.folder / RunPaths(NAME).metrics
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [e for e in events if event in (None, e["event"])]

    def rounds(self) -> list[RoundChange]:
        """All changes of rounds that any store of this gang has logged, in order."""
        found = re.findall(r"gang \S+ round (\d+) (\w+): (.*)", self.log("store"))
        return [
            RoundChange(int(n), status, tuple(m.rpartition("#")[0] for m in members.split()))
            for n, status, members in found
        ]

    def wait_for_step(self, step: int, *, round_number: int = 0) -> dict[str, Any]:
        """Wait until a step is done, in that round or a later one; returns its line."""

        def look() -> dict[str, Any] | None:
            steps = (e for e in self.metrics("step") if e["round"] >= round_number)
            return next((e for e in steps if e["step"] >= step), None)

        return self.wait(look, f"step {step} of round {round_number} or later")

    def wait_for_start(self, *, world_size: int | None = None, after: int = 0) -> dict[str, Any]:
        """Wait for the ranks of a round later than ``after`` to be loaded; its ``start`` line."""

        def look() -> dict[str, Any] | None:
            starts = [e for e in self.metrics("start") if e["round"] > after]
            fit = (e for e in starts if world_size in (None, e["world_size"]))
            return next(fit, None)

        return self.wait(look, f"a world of {world_size} after round {after}")

    def wait(self, look: Callable[[], T | None], what: str) -> T:
        """Wait until something is there.

        Raises:
            TimeoutError: it is not, for minutes, or all launchers have ended without it; with the
                end of every log.
        """
        limit = time.monotonic() + PATIENCE_SECONDS
        while True:
            ended = all(launcher.poll() is not None for launcher in self.launchers.values())
            if found := look():
                return found
            if ended or time.monotonic() > limit:
                raise TimeoutError(f"waited in vain for {what}\n{self.tails()}")
            time.sleep(0.02)

    def tails(self) -> str:
        """The end of every log, for messages."""
        logs = sorted(self.logs.glob("*.log"))
        return "\n".join(f"--- {p.name}\n{self.log(p.stem)[-3000:]}" for p in logs)

    # What remains

    def surviving_samples(self) -> dict[int, list[int]]:
        """Sample numbers by step, from the history that was not redone.

        A round's steps after the one that a later round resumed from were redone.
        """
        starts = [(e["attempt"], e["round"], e["step"]) for e in self.metrics("start")]
        kept: dict[int, list[int]] = {}
        for line in self._sample_lines():
            here = (line["attempt"], line["round"])
            resumed = min((s for a, r, s in starts if (a, r) > here), default=line["step"])
            if line["step"] <= resumed:
                kept.setdefault(line["step"], []).extend(line["samples"])
        return {step: sorted(samples) for step, samples in sorted(kept.items())}

    def expected_samples(self) -> dict[int, list[int]]:
        """Sample numbers by step: every number once."""
        size, steps = self.config.train.global_batch_size, self.config.train.steps
        return {s: list(range((s - 1) * size, s * size)) for s in range(1, steps + 1)}

    def final(self) -> dict[str, np.ndarray]:
        """Every tensor of the final checkpoint, moments included."""
        # Loads torch, which not every user of a gang wants.
        from pangu_core.checkpoint.reader import Checkpoint
        from pangu_core.checkpoint.store import find_checkpoint
        from pangu_core.layout import whole

        checkpoint = Checkpoint.open(find_checkpoint(self.folder / RunPaths(NAME).checkpoints))
        assert checkpoint.manifest.final, checkpoint.folder
        shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
        return {key: checkpoint.read(key, whole(shape)).numpy() for key, shape in shapes.items()}

    def _sample_lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / RunPaths(NAME).samples).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def _termination_path(self, name: str) -> Path:
        return self.folder / "pods" / name / "termination"


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _environment_of(process: psutil.Process) -> dict[str, str]:
    """A process's environment; empty for one that has ended, or has not begun."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return {}
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[key] = _merged(before, value) if nested else value
    return merged
