"""PanguJobs of one namespace with controllers that look after them: what tests of lives share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from k8s import names
from pangu_core.messages import Termination
from pangu_core.rendezvous.ports import free_port
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.stand_in import StandIn

T = TypeVar("T")
CHECKOUT: Final = Path(__file__).parents[2]
PATIENCE_SECONDS: Final = 90.0
DONE: Final = Termination(code=0, output="runs/novel/x", manifest_sha256="ab" * 32)
PANGU: Final = str(Path(sys.executable).with_name("pangu"))
JOB: Final[dict[str, Any]] = {
    "apiVersion": names.API_VERSION,
    "kind": names.JOB_KIND,
    "metadata": {"name": "novel"},
    "spec": {
        "image": "pangu-core:test",
        "workspace": {"claimName": "work"},
        "model": {"preset": "tiny"},
        "data": {"input": "corpus/*.txt"},
        "train": {
            "steps": 100,
            "globalBatchSize": 8,
            "nodes": {"min": 1, "max": 2},
            "precision": "bf16",
        },
        "pods": {"resources": {}},
    },
}


class Jobs:
    """The namespace of a stand-in, its jobs, and the controllers that were started for it."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.cluster, self.stand_in, self.namespace = stand_in.cluster, stand_in, stand_in.namespace
        self.log = folder / "controller.log"
        self.controllers: list[subprocess.Popen[bytes]] = []
        self.claim("work")

    def claim(self, name: str, mode: str = "ReadWriteMany") -> None:
        spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        self.cluster.request("POST", path, {"metadata": {"name": name}, "spec": spec})

    def start_controller(
        self, kubeconfig: Path | None = None, more: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a replica whose Lease is in the namespace; without a kubeconfig it is administrator."""
        places = ["-n", self.namespace, "--lease-namespace", self.namespace]
        with self.log.open("ab") as log:
            started = subprocess.Popen(
                [PANGU, "controller", *places, "--probe-port", str(free_port()), *more],
                cwd=CHECKOUT,
                env={**os.environ, "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig)},
                stdout=log,
                stderr=log,
            )
        self.controllers.append(started)
        return started

    def close(self) -> None:
        """Kill what was started."""
        for controller in self.controllers:
            controller.kill()
            controller.wait()

    def create(self, **changes: object) -> None:
        spec = {**JOB["spec"], **changes}
        self.cluster.request("POST", self.path(), {**JOB, "spec": spec})

    def path(self, name: str = "") -> str:
        path = f"/apis/{names.API_VERSION}/namespaces/{self.namespace}/pangujobs"
        return f"{path}/{name}" if name else path

    def job(self) -> dict:
        return self.cluster.request("GET", self.path("novel"))

    def status(self) -> dict:
        return self.job().get("status", {})

    def change(self, spec: dict) -> None:
        kind = "application/merge-patch+json"
        self.cluster.request("PATCH", self.path("novel"), {"spec": spec}, kind=kind)

    def pangu(self, *arguments: str) -> str:
        """What a verb of the command prints."""
        command = [str(Path(sys.executable).with_name("pangu")), *arguments, "-n", self.namespace]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, cwd=CHECKOUT
        )
        return done.stdout

    def wait(self, look: Callable[[dict], T], seconds: float = PATIENCE_SECONDS) -> dict:
        """The status, as soon as ``look(status)`` holds."""
        try:
            return eventually(lambda: (s := self.status()) and look(s) and s, seconds=seconds)
        except AssertionError as error:
            log = self.log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"{error}\n{json.dumps(self.status(), indent=1)}\n{log}") from None

    def pods(self, stage: str) -> list[str]:
        """Names of the pods of a stage that have not ended."""
        return [
            pod["metadata"]["name"]
            for pod in self.stand_in.pods()
            if pod["metadata"]["labels"].get(names.STAGE_LABEL) == stage
            and pod["metadata"]["labels"].get(names.COMPONENT_LABEL) == stage
            and pod["status"]["phase"] == "Running"
        ]

    def wait_for_pods(self, stage: str, count: int, *, attempt: int) -> list[str]:
        head = f"novel-{stage}-{attempt}"
        return eventually(
            lambda: (
                (p := [n for n in self.pods(stage) if n.startswith(head)]) and len(p) == count and p
            ),
            seconds=PATIENCE_SECONDS,
        )


def condition(status: dict, kind: str) -> dict:
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def until_training(pod: Pod) -> Behaviour:
    """Every stage before training ends well at once; trainers and stores run."""
    if pod["metadata"]["labels"].get(names.COMPONENT_LABEL) in ("train", "store"):
        return Behaviour()
    return Behaviour(exit_code=0, message=DONE)
