"""A gang of real launchers and gloo ranks on this machine, with a store that can be killed.

Plain module: tests use it through their fixtures, benches as ``tests.elastic.gang`` with the
checkout on the path. Everything that it started is ended, by pid, when it is closed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.request import urlopen

import numpy as np

from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.launch.rank_names import SPARE_NAME
from pangu_core.messages import Termination
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.ports import free_port
from pangu_core.workspace import RunPaths
from tests.elastic import traces
from tests.elastic.processes import children_of, place_of

T = TypeVar("T")
CHECKOUT = Path(__file__).parents[2]
PACE = Path(__file__).with_name("pace")
NAME = "gang"
PATIENCE_SECONDS = 400.0
# As quick as a loaded machine allows: a node that is merely starved must not count as lost.
QUICK = Timing(quiet=1.0, dead=3.0, hangup=0.5, recovery=3.0, growth=1.0)
VOCABULARY_SIZE = 64
# Random ids of which the training split is 240 samples of 16: 40 steps of 12 see each twice.
NUM_DOCUMENTS, DOCUMENT_TOKENS = 115, 167
SETTINGS: dict[str, Any] = {
    "model": {
        "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
        "vocabSize": VOCABULARY_SIZE, "sequenceLength": 16,
    },
    "data": {"split": "20,80,0"},
    "train": {
        "steps": 40, "globalBatchSize": 12, "microBatchSize": 1, "precision": "fp64",
        "warmSpares": False,  # they would load libraries while others' tests need the processor
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
        self.pace_path = folder / "pace.json"
        self.pace()
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
            "PANGU_TEST_PACE": str(self.pace_path),
            "PYTHONPATH": f"{PACE}:{CHECKOUT}",
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
            for _ in range(NUM_DOCUMENTS):
                writer.add([int(t) for t in draw.integers(10, VOCABULARY_SIZE, DOCUMENT_TOKENS)])
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
            assert name not in self.alive()
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

    def alive(self) -> list[str]:
        """Names of the launchers that have not ended."""
        return [name for name, launcher in self.launchers.items() if launcher.poll() is None]

    def exits(self) -> dict[str, int]:
        """Wait for the end of all launchers; exit codes by name."""
        return {name: self.exit(name)[0] for name in self.launchers}

    def ranks(self, name: str | None = None) -> list[Rank]:
        """Live training processes of one launcher, or of all, in rank order."""
        found = []
        for launcher in [name] if name else list(self.launchers):
            for process in children_of(self.launchers[launcher].pid):
                place = place_of(process)
                if place is not None:
                    found.append(Rank(process.pid, *place, launcher))
        return sorted(found, key=lambda r: (r.round, r.rank))

    def spares(self, name: str) -> list[int]:
        """Process numbers of what a launcher keeps ready for its next round."""
        children = children_of(self.launchers[name].pid)
        return sorted(c.pid for c in children if c.is_running() and c.name() == SPARE_NAME)

    def close(self) -> None:
        """End everything that was started."""
        for process in self._started:
            doomed = children_of(process.pid) if process.poll() is None else []
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

    def pace(self, **seconds: float) -> None:
        """From now on every step takes at least so long, or every phase named; nothing: no wait."""
        draft = self.pace_path.with_suffix(".draft")
        draft.write_text(json.dumps(seconds), encoding="ascii")
        draft.replace(self.pace_path)

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
        return traces.metrics(self.folder / RunPaths(NAME).root, event)

    def rounds(self) -> list[traces.RoundChange]:
        """All changes of rounds that any store of this gang has logged, in order."""
        return traces.rounds(self.log("store"))

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
            ended = not self.alive()
            if found := look():
                return found
            if ended or time.monotonic() > limit:
                raise TimeoutError(f"waited in vain for {what}\n{self.tails()}")
            time.sleep(0.02)

    def surviving_samples(self) -> dict[int, list[int]]:
        """Sample numbers by step, from the history that was not redone."""
        return traces.surviving_samples(self.folder / RunPaths(NAME).root)

    def final(self) -> dict[str, np.ndarray]:
        """Every tensor of the final checkpoint, moments included."""
        return traces.final(self.folder / RunPaths(NAME).root)

    def finish(self) -> dict[str, np.ndarray]:
        """Let all launchers that still run end well; the final tensors.

        In the history that was not redone, every sample was trained on once in each epoch.
        """
        self.pace()
        assert all(self.exit(name)[0] == 0 for name in self.alive()), self.tails()
        by_step, train = self.surviving_samples(), self.config.train
        assert list(by_step) == list(range(1, train.steps + 1))
        assert {len(samples) for samples in by_step.values()} == {train.global_batch_size}
        numbers = sorted(number for samples in by_step.values() for number in samples)
        assert numbers == list(range(train.steps * train.global_batch_size))
        return self.final()

    def tails(self) -> str:
        """The end of every log, for messages."""
        logs = sorted(self.logs.glob("*.log"))
        return "\n".join(f"--- {p.name}\n{self.log(p.stem)[-3000:]}" for p in logs)

    def _termination_path(self, name: str) -> Path:
        return self.folder / "pods" / name / "termination"


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[key] = _merged(before, value) if nested else value
    return merged
