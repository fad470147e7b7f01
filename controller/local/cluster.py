"""Holds one job's objects and lets operators and kubelet work on them: a cluster of one machine.

Objects are dicts in the API server's form. ``poll`` brings pods up to date, ``operate`` lets the
controllers act; between the two a reconcile sees every pod that ended before it is replaced.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from controller.local import operators
from controller.local.kubelet import Kubelet
from controller.local.pods import DEVICES_VARIABLE, LOCAL_ADDRESS, Places, Wiring, plan_pod
from controller.observe import is_of_the_store
from k8s import names
from k8s.status import to_rfc3339
from pangu_core.rendezvous.ports import free_port

Object = dict[str, Any]
ANY_PORT: Final = "0"


class LocalCluster:
    """One job's objects and processes."""

    def __init__(
        self,
        kubelet: Kubelet,
        *,
        places: Places,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kubelet, self._places, self._environment = kubelet, places, environment
        self._clock = clock
        self._objects: dict[tuple[str, str], Object] = {}
        self._ports: dict[tuple[str, int], int] = {}  # (service, its port) -> local port

    def objects(self) -> list[Object]:
        """Every object with its status; they are live, not copies."""
        return list(self._objects.values())

    def pods(self) -> list[Object]:
        """The pods among the objects."""
        return [item for item in self.objects() if item["kind"] == "Pod"]

    def has_processes(self) -> bool:
        """Whether any pod's process runs."""
        return any(self._kubelet.is_alive(pod) for pod in self.pods())

    def create(self, manifests: Iterable[Object]) -> None:
        """Create objects; those that exist already stay as they are."""
        for manifest in manifests:
            self._add(deepcopy(manifest))

    def delete(self, stage: str, attempt: int) -> None:
        """Delete all of an attempt but its store; objects stay until their pods have ended."""
        items = [item for item in self.objects() if _attempt(item) == (stage, attempt)]
        self._mark([item for item in items if not is_of_the_store(item)])

    def release(self, stage: str, attempt: int) -> None:
        """Delete an attempt's store."""
        items = [item for item in self.objects() if _attempt(item) == (stage, attempt)]
        self._mark([item for item in items if is_of_the_store(item)])

    def kill_all(self) -> None:
        """End every process at once."""
        self._kubelet.kill_all()

    def poll(self) -> None:
        """Bring every pod's status up to date."""
        for pod in self.pods():
            self._kubelet.poll(pod)

    def operate(self) -> None:
        """Let the controllers act, and remove what was deleted and has ended."""
        for owner in self.objects():
            if owner["kind"] != "Pod" and not _is_deleting(owner):
                self._carry_out(owner, operators.rule(owner, self._pods_of(owner)))
        for pod in self.pods():
            if _is_deleting(pod) and not self._kubelet.is_alive(pod):
                self._drop(pod)
        for item in self.objects():
            if _is_deleting(item) and not self._blocks(item):
                self._drop(item)

    def _carry_out(self, owner: Object, ruling: operators.Ruling) -> None:
        for pod in self._pods_of(owner):
            if pod["metadata"]["name"] in ruling.remove:
                self._drop(pod)
            elif pod["metadata"]["name"] in ruling.stop:
                self._mark([pod])
        status = owner.setdefault("status", {})
        if ruling.condition:
            status.setdefault("conditions", []).append(ruling.condition)
        for pod in ruling.create:
            status["created"] = status.get("created", 0) + 1
            self._add(pod)
            launch = plan_pod(
                pod,
                places=self._places,
                wiring=self._wiring(owner, pod),
                environment=self._environment,
            )
            self._kubelet.start(pod, launch)

    def _add(self, item: Object) -> None:
        metadata = item["metadata"]
        key = (item["kind"], metadata["name"])
        if key in self._objects:
            return
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = to_rfc3339(int(self._clock()))
        self._objects[key] = item
        if item["kind"] == "ConfigMap":
            folder = self._places.configs / metadata["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in item.get("data", {}).items():
                (folder / name).write_text(text, encoding="utf-8")
        elif item["kind"] == "Service":
            for port in item["spec"]["ports"]:
                self._ports[metadata["name"], port["port"]] = free_port()

    def _drop(self, item: Object) -> None:
        kind, name = item["kind"], item["metadata"]["name"]
        del self._objects[kind, name]
        if kind == "Pod":
            self._kubelet.remove(item)
        elif kind == "ConfigMap":
            shutil.rmtree(self._places.configs / name, ignore_errors=True)
        elif kind == "Service":
            self._ports = {key: port for key, port in self._ports.items() if key[0] != name}

    def _mark(self, items: Iterable[Object]) -> None:
        for item in items:
            if _is_deleting(item):
                continue
            if item["kind"] == "Pod":
                self._kubelet.terminate(item)
            else:
                item["metadata"]["deletionTimestamp"] = to_rfc3339(int(self._clock()))

    def _blocks(self, item: Object) -> bool:
        """Whether an object has to wait: a pod for its process, all others for their pods."""
        if item["kind"] == "Pod":
            return self._kubelet.is_alive(item)
        return any(_attempt(p) == _attempt(item) and _is_deleting(p) for p in self.pods())

    def _pods_of(self, owner: Object) -> list[Object]:
        key = (owner["kind"], owner["metadata"]["name"])
        return [pod for pod in self.pods() if key in _owners(pod)]

    def _wiring(self, owner: Object, pod: Object) -> Wiring:
        endpoints = {
            f"{service}:{port}": f"{LOCAL_ADDRESS}:{local}"
            for (service, port), local in self._ports.items()
        }
        ports = {names.PROGRESS_PORT_VARIABLE: ANY_PORT}
        for (service, _), local in self._ports.items():
            selector = self._objects["Service", service]["spec"]["selector"]
            if selector.items() <= pod["metadata"]["labels"].items():
                ports[names.STORE_PORT_VARIABLE] = str(local)
        return Wiring(
            endpoints=endpoints,
            ports=ports,
            num_processes=operators.num_processes(owner),
            num_processors=len(os.sched_getaffinity(0)),
            devices=_devices(self._environment),
        )


def _devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """GPUs that this machine has, or that its user left to us."""
    chosen = environment.get(DEVICES_VARIABLE)
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name)
    nodes = Path("/dev").glob("nvidia[0-9]*")
    return tuple(sorted((node.name.removeprefix("nvidia") for node in nodes), key=int))


def _attempt(item: Mapping[str, Any]) -> tuple[str, int] | None:
    labels = item["metadata"].get("labels", {})
    if names.STAGE_LABEL not in labels or names.ATTEMPT_LABEL not in labels:
        return None
    return labels[names.STAGE_LABEL], int(labels[names.ATTEMPT_LABEL])


def _owners(pod: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(o["kind"], o["name"]) for o in pod["metadata"].get("ownerReferences", ())}


def _is_deleting(item: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in item["metadata"]
