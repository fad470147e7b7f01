"""What is compared: the commands and environments of pods, and how each stack's steps are read."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.elastic.payload import NOTES_VARIABLE, STEP_SECONDS
from bench.elastic.pods import GRACE_SECONDS, Pod
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.ports import free_port
from tests.elastic import gang
from tests.elastic.gang import CHECKOUT, PACE, Gang

LOW, HIGH = 2, 4
# The growth case alone runs a store that lets a round grow after this long; 30 s is the default.
GROWTH_SECONDS: Final = 5.0
RESTARTED_FROM: Final = 128  # our pods: codes from here on replace the pod, lower ones end the job
TRAINING: Final[dict[str, Any]] = {
    "data": {"split": "100,0,0"},
    "train": {
        "steps": 1_000_000,
        "globalBatchSize": 16,
        "precision": "fp32",
        "warmSpares": True,
        "logSamples": False,
        "checkpoint": {"everySteps": 20, "keep": 2},
        "hang": {"floorSeconds": 5.0, "factor": 5.0},
    },
}


@dataclass(frozen=True)
class Stack:
    """A column of the table."""

    name: str
    title: str
    is_ours: bool = True
    unit: int = 1  # tensor-parallel size; a pod has one process
    trains: bool = False  # the real training rank in place of the payload
    variables: tuple[tuple[str, str], ...] = ()


STACKS: Final = (
    Stack("ours", "ours"),
    Stack("ours-tp2", "ours, TP 2", unit=2),
    Stack("training", "ours, training at TP 2", unit=2, trains=True),
    Stack("stock", "torchrun c10d", is_ours=False),
    Stack(
        "unshared",
        "torchrun c10d, unshared store",
        is_ours=False,
        variables=(("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1"),),
    ),
)


@dataclass(frozen=True)
class Step:
    """A step of a gang, by the wall clock."""

    time: float
    world: int
    begun: float  # when the gang's rank 0 was started (training: when it had loaded)


class Fleet:
    """The pods of one measurement."""

    def __init__(self, stack: Stack, folder: Path, *, grows: bool = False) -> None:
        self.stack, self.folder = stack, folder
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        self.port = free_port()
        self.store: Pod | None = None
        self.trainers: list[Pod] = []
        self._environment = {
            **os.environ,
            **dict(stack.variables),
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
            NOTES_VARIABLE: str(self.notes),
        }
        if stack.is_ours:
            self._prepare_ours(grows)

    @property
    def pods(self) -> list[Pod]:
        """All pods, the store's too."""
        return [*self.trainers, *([self.store] if self.store else [])]

    def add_trainers(self, count: int) -> None:
        """Start so many more pods."""
        for index in range(len(self.trainers), len(self.trainers) + count):
            make = self._our_trainer if self.stack.is_ours else self._stock_trainer
            self.trainers.append(make(index))
            self.trainers[-1].start()

    def tick(self) -> None:
        """Let the kubelets look at their pods."""
        for pod in self.pods:
            pod.tick()

    def close(self) -> None:
        """End all processes."""
        for pod in self.pods:
            pod.close()

    def is_ready(self) -> bool:
        """Whether everything is as in a gang that has trained for long: spares have loaded."""
        return not self.stack.is_ours or all(pod.has_spare() for pod in self.trainers)

    def steps(self) -> list[Step]:
        """All steps so far, in order of time."""
        return self._trained_steps() if self.stack.trains else self._noted_steps()

    def noted(self) -> list[dict[str, Any]]:
        """What the payload's processes noted."""
        return [line for path in sorted(self.notes.iterdir()) for line in _json_lines(path)]

    def _noted_steps(self) -> list[Step]:
        lines = self.noted()
        begun = {line["pid"]: line["time"] for line in lines if line["event"] == "python"}
        steps = [line for line in lines if line["event"] == "step"]
        found = [Step(s["time"], s["world"], begun[s["pid"]]) for s in steps]
        return sorted(found, key=lambda step: step.time)

    def _trained_steps(self) -> list[Step]:
        lines = self._gang.metrics()
        begun = {line["round"]: line for line in lines if line["event"] == "start"}
        return [
            Step(line["time"], line["world_size"], begun[line["round"]]["time"])
            for line in lines
            if line["event"] == "step"
        ]

    def _prepare_ours(self, grows: bool) -> None:
        """The workspace with its config, and the store."""
        self._gang = Gang(
            self.folder / "workspace",
            tensor_parallel=self.stack.unit,
            low=LOW,
            high=HIGH,
            settings=TRAINING,
        )
        self._gang.pace(step=STEP_SECONDS)  # as beside a GPU: the processor is mostly free
        command = [sys.executable, "-m", "pangu_core.entry.store"]
        if grows:
            script = str(Path(gang.__file__).with_name("quick_store.py"))
            command = [sys.executable, script, json.dumps(asdict(Timing(growth=GROWTH_SECONDS)))]
        own = {"PANGU_STORE_PORT": str(self.port)}
        self.store = self._pod("store", command, own, is_ours=True)
        self.store.start()

    def _our_trainer(self, index: int) -> Pod:
        module = "pangu_core.entry.train" if self.stack.trains else "bench.elastic.agent"
        name = f"worker-{index}"
        own = {
            "PYTHONPATH": f"{PACE}:{CHECKOUT}",
            "PANGU_TEST_PACE": str(self._gang.pace_path),
            "PANGU_WORKSPACE": str(self._gang.folder),
            "PANGU_CONFIG": str(self._gang.config_path),
            "PANGU_AGENT_NAME": name,
            "PANGU_AGENT_ADDRESS": "127.0.0.1",
            "PANGU_GRACE_SECONDS": f"{GRACE_SECONDS:.0f}",
            "PET_RDZV_BACKEND": "pangu",
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{self.port}",
            "PET_RDZV_ID": "bench-1",
            "PET_NNODES": f"{LOW}:{HIGH}",
            "PET_NPROC_PER_NODE": "1",
        }
        return self._pod(name, [sys.executable, "-m", module], own, is_ours=True)

    def _stock_trainer(self, index: int) -> Pod:
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *(f"--nnodes={LOW}:{HIGH}", "--nproc-per-node=1", "--max-restarts=10"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}"),
            "--rdzv-id=bench",
            # In a cluster the endpoint's host name decides; here all pods have the same.
            f"--rdzv-conf=is_host={'true' if index == 0 else 'false'}",
            "--local-addr=127.0.0.1",
            *("-m", "bench.elastic.payload"),
        ]
        return self._pod(f"worker-{index}", command, {}, is_ours=False)

    def _pod(
        self, name: str, command: list[str], variables: Mapping[str, str], *, is_ours: bool
    ) -> Pod:
        lowest = RESTARTED_FROM if is_ours else 1  # torchrun's one code is 1: OnFailure
        return Pod(
            name,
            command,
            {**self._environment, **variables},
            self.folder / f"{name}.log",
            is_replaced=lambda code: code < 0 or code >= lowest,
        )


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines alone: the last one may still be under way."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
