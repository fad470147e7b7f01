"""A stand-in for Kueue 0.19, by its own field manager: what it does to Jobs and PyTorchJobs.

An object with a queue's label that was not admitted is held suspended. On admission it gets a node
selector and is un-suspended; on eviction it is suspended and gets its own selector back. One whose
size changes while it is admitted is stopped, since its Workload no longer fits it. The real Kueue was
not run: these rules are read from its source.
"""

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from kubernetes.client import ApiException

from k8s import names
from tests.cluster.access import MERGE_PATCH, Cluster

MANAGER: Final = "kueue"
FLAVOR: Final = {"example.com/flavor": "h100"}
PERIOD_SECONDS: Final = 0.2
Object = dict[str, Any]


class Kueue:
    """Looks after the queued objects of one namespace while the context lasts."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._wanted: set[str] = set()  # names that shall run
        self._sizes: dict[str, int] = {}  # uid -> replicas that were admitted
        self.stopped: list[str] = []  # names of what changed while it was admitted
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def admit(self, name: str) -> None:
        """Let an object run, as soon as it is there."""
        self._wanted.add(name)

    def evict(self, name: str) -> None:
        """Take back an object's quota."""
        self._wanted.discard(name)

    def queued(self) -> Iterator[Object]:
        """Objects with a queue's label."""
        for group, plural in (("kubeflow.org/v1", "pytorchjobs"), ("batch/v1", "jobs")):
            path = f"/apis/{group}/namespaces/{self._namespace}/{plural}"
            query = f"?labelSelector={names.QUEUE_LABEL}"
            for item in self._cluster.request("GET", path + query)["items"]:
                yield {**item, "path": f"{path}/{item['metadata']['name']}"}

    def _run(self) -> None:
        while not self._end.wait(PERIOD_SECONDS):
            for item in self.queued():
                try:
                    self._look_at(item)
                except ApiException as error:
                    if error.status not in (404, 409):  # gone, or changed meanwhile
                        raise

    def _look_at(self, item: Object) -> None:
        name, uid = item["metadata"]["name"], item["metadata"]["uid"]
        if "deletionTimestamp" in item["metadata"] or _has_ended(item):
            return
        size, admitted = _size(item), self._sizes.get(uid)
        if admitted is not None and size != admitted:
            self.stopped.append(name)
            self._wanted.discard(name)
        if name not in self._wanted:
            if not _is_suspended(item) or admitted is not None:
                self._sizes.pop(uid, None)
                self._write(item, suspend=True, selector=None)
        elif admitted is None:
            self._sizes[uid] = size
            self._write(item, suspend=False, selector=FLAVOR)

    def _write(self, item: Object, *, suspend: bool, selector: dict[str, str] | None) -> None:
        template = {"spec": {"nodeSelector": selector}}
        version = item["metadata"]["resourceVersion"]
        if "pytorchReplicaSpecs" in item["spec"]:
            spec: Object = {"runPolicy": {"suspend": suspend}}
            spec["pytorchReplicaSpecs"] = {"Worker": {"template": template}}
        else:
            spec = {"suspend": suspend}
            # A Job's pods take directives only before they start.
            if not suspend:
                spec["template"] = template
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        query = f"?fieldManager={MANAGER}"
        self._cluster.request("PATCH", item["path"] + query, body, kind=MERGE_PATCH)


def _size(item: Object) -> int:
    specs = item["spec"].get("pytorchReplicaSpecs")
    size: int = specs["Worker"]["replicas"] if specs else item["spec"].get("parallelism", 1)
    return size


def _is_suspended(item: Object) -> bool:
    return bool(item["spec"].get("suspend") or item["spec"].get("runPolicy", {}).get("suspend"))


def _has_ended(item: Object) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    true = {each["type"] for each in conditions if each["status"] == "True"}
    return bool(true & {"Succeeded", "Failed", "Complete"})
