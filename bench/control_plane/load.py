"""Creates many PanguJobs at once and notes when each one's PyTorchJob is seen."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final

import urllib3
from kubernetes.client import ApiException

from k8s import names
from tests.cluster.access import Cluster

THREADS: Final = 8
LIMIT_SECONDS: Final = 600.0
SPEC: Final[dict[str, Any]] = {
    "image": "pangu-core:bench",
    "workspace": {"claimName": "work"},
    "model": {"preset": "2.6B"},
    "data": {"format": "tokens", "input": "tokens/novel"},  # so that training is the first stage
    "train": {
        "steps": 1000,
        "globalBatchSize": 64,
        "nodes": {"min": 1, "max": 4, "processesPerNode": 8},
    },
}


class Load:
    """Jobs of one namespace: created by 8 threads with no rate limit, watched by one.

    Args:
        cluster: access as administrator.
        namespace: where.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._created: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._changed = threading.Condition()
        self._make_claim()
        version = self._version()
        threading.Thread(target=self._follow, args=(version,), daemon=True).start()

    def create(self, jobs: list[str]) -> float:
        """Create jobs by name; returns the seconds that it took."""
        begin = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._create, jobs))
        return time.monotonic() - begin

    def wait(self, jobs: list[str]) -> list[float]:
        """Seconds from the client's create to the PyTorchJob seen, for each job, in order.

        Raises:
            TimeoutError: one was not seen in ten minutes.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: self._seen.keys() >= set(jobs), LIMIT_SECONDS)
        if not done:
            raise TimeoutError(
                f"{len(self._seen)} of {len(jobs)} PyTorchJobs after {LIMIT_SECONDS} s"
            )
        return [self._seen[job] - self._created[job] for job in jobs]

    @property
    def _trainers(self) -> str:
        return f"/apis/kubeflow.org/v1/namespaces/{self._namespace}/pytorchjobs"

    def _create(self, job: str) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.JOB_KIND,
            "metadata": {"name": job},
            "spec": SPEC,
        }
        path = f"/apis/{names.API_VERSION}/namespaces/{self._namespace}/pangujobs"
        self._created[job] = time.monotonic()
        self._cluster.request("POST", path, body)

    def _version(self) -> str:
        """Where to watch from; a server whose definitions are new asks for patience first."""
        while True:
            try:
                listed = self._cluster.request("GET", self._trainers)
            except ApiException as error:
                if error.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise
                time.sleep(0.5)
            else:
                version: str = listed["metadata"]["resourceVersion"]
                return version

    def _make_claim(self) -> None:
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        path = f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims"
        self._cluster.request("POST", path, {"metadata": {"name": "work"}, "spec": spec})

    def _follow(self, version: str) -> None:
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds=3600"
        # It ends with the API server.
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            for line in _lines(self._cluster.open("GET", self._trainers + query)):
                event = json.loads(line)
                job = event["object"]["metadata"]["labels"][names.JOB_LABEL]
                with self._changed:
                    self._seen.setdefault(job, time.monotonic())
                    self._changed.notify_all()


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for data in response.stream(None):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
