"""A stand-in for scheduler and kubelet: pods of one namespace do what a test wants of them.

No process runs. A pod is bound to a node of the stand-in's own, its status is written as a kubelet
would write it, and ``/progress`` answers at its address. ``policy(pod) -> Behaviour`` says what
happens; by default every pod runs until it is asked to end. The node is cordoned, so that a real
scheduler beside it places nothing there.
"""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self

import urllib3
from kubernetes.client import ApiException

from k8s import names
from pangu_core.messages import Termination
from tests.cluster import behaviour as behaviours
from tests.cluster.access import APPLY_PATCH, STRATEGIC_PATCH, Cluster
from tests.cluster.behaviour import Behaviour, Pod, Policy, run
from tests.cluster.progress_server import ProgressServer

LEASE_SECONDS: Final = 40
RENEW_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.2
RESTART_SECONDS: Final = 0.5  # before a container runs again in the same pod
ENDED: Final = ("Succeeded", "Failed")
NEVER: Final = float("inf")


@dataclass
class _Track:
    """What was done to one pod."""

    address: str
    told: object = None  # the last thing written, so that it is not written again
    forced: Behaviour | None = None  # by ``end``
    started: float | None = None
    ended: float | None = None
    restarts: int = 0
    stop_since: float | None = None
    serves: bool = False
    last: Pod = field(default_factory=dict)


class StandIn:
    """A context manager; the policy may be changed at any time and holds from then on."""

    _addresses = itertools.count(1)  # of all stand-ins of this process: 127.1.0.1 and on

    def __init__(self, cluster: Cluster, namespace: str, policy: Policy = run) -> None:
        self.cluster, self.namespace, self._policy = cluster, namespace, policy
        self.node = f"stand-in-{namespace}"
        self._tracks: dict[str, _Track] = {}  # by uid
        self._changed, self._version = threading.Condition(), 0
        self._stopped = threading.Event()
        self._progress = ProgressServer()
        self._watch: urllib3.BaseHTTPResponse | None = None
        loops = (self._follow, self._work, self._renew)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]

    def __enter__(self) -> Self:
        self._make_node()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._notify()
        for thread in self._threads:
            while thread.is_alive():
                if self._watch is not None:  # wake the one that reads; it may be about to
                    with contextlib.suppress(OSError, ValueError, RuntimeError):
                        self._watch.shutdown()
                thread.join(0.1)
        self._progress.close()
        with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
            # Nobody is left to end the pods; at once, so that their namespace can go.
            self.cluster.request("DELETE", self._path(), {"gracePeriodSeconds": 0})
            self.cluster.request("DELETE", f"/api/v1/nodes/{self.node}")

    @property
    def policy(self) -> Policy:
        """What pods do."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._notify()

    def pods(self) -> list[Pod]:
        """The pods as last seen, by name."""
        with self._changed:
            pods = [track.last for track in self._tracks.values()]
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])

    def end(
        self,
        name: str,
        exit_code: int,
        *,
        message: str | Termination = "",
        reason: str = "",
        disruption: str = "",
    ) -> None:
        """Have a pod's containers exit now, whatever the policy says.

        Raises:
            LookupError: there is no such pod.
        """
        with self._changed:
            found = [t for t in self._tracks.values() if t.last["metadata"]["name"] == name]
            if not found:
                raise LookupError(f"no pod {name} in {self.namespace}")
            found[-1].forced = Behaviour(
                exit_code=exit_code, message=message, reason=reason, disruption=disruption
            )
        self._notify()

    # Watching

    def _follow(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError, OSError):
                listed = self.cluster.request("GET", self._path())
                self._replace(listed["items"])
                self._follow_from(listed["metadata"]["resourceVersion"])
            self._stopped.wait(RETRY_SECONDS)

    def _follow_from(self, version: str) -> None:
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds=300"
        self._watch = self.cluster.open("GET", self._path() + query)
        for line in _lines(self._watch):
            if self._stopped.is_set():  # shut down: what still comes is not decrypted
                return
            event = json.loads(line)
            if event.get("type") in (None, "ERROR"):  # none: it is a refusal, not an event
                return
            self._see(event["object"], gone=event["type"] == "DELETED")

    def _replace(self, pods: Iterable[Pod]) -> None:
        seen = {pod["metadata"]["uid"]: pod for pod in pods}
        with self._changed:
            gone = [track.last for uid, track in self._tracks.items() if uid not in seen]
        for pod in gone:
            self._see(pod, gone=True)
        for pod in seen.values():
            self._see(pod)

    def _see(self, pod: Pod, *, gone: bool = False) -> None:
        uid = pod["metadata"]["uid"]
        with self._changed:
            if gone:
                track = self._tracks.pop(uid, None)
            else:
                track = self._tracks.get(uid) or _Track(_address(next(self._addresses)))
                self._tracks[uid] = track
                track.last = pod
        if gone and track is not None:
            self._progress.stop(track.address)
        self._notify()

    # Deciding

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                version, tracks = self._version, list(self._tracks.values())
            due = min((self._attend(track) for track in tracks), default=NEVER)
            with self._changed:
                if version == self._version:
                    self._changed.wait(None if due == NEVER else due - time.monotonic())

    def _attend(self, track: _Track) -> float:
        """Do the next thing to a pod; returns when to look again, on the monotonic clock."""
        try:
            return self._step(track, track.last, track.forced or self._policy(track.last))
        except ApiException as error:
            if error.status in (404, 409):  # gone, or changed meanwhile: the watch will tell
                return NEVER
            return time.monotonic() + RETRY_SECONDS
        except (urllib3.exceptions.HTTPError, OSError):  # the API server is away
            return time.monotonic() + RETRY_SECONDS

    def _step(self, track: _Track, pod: Pod, behaviour: Behaviour) -> float:
        deleting = "deletionTimestamp" in pod["metadata"]
        if "nodeName" not in pod["spec"]:
            if not deleting:
                self._place(track, pod, behaviour)
        elif pod["spec"]["nodeName"] != self.node:
            pass
        elif deleting:
            return self._end_asked(track, pod, behaviour)
        elif pod["status"]["phase"] in ENDED:
            pass
        elif behaviour.waiting:
            status = behaviours.waiting(pod, behaviour.waiting, restarts=track.restarts)
            self._write(track, pod, behaviour.waiting, status)
        else:
            self._run(track, pod, behaviour)
            if behaviour.exit_code is not None:
                return self._end_itself(track, pod, behaviour)
        return NEVER

    def _end_itself(self, track: _Track, pod: Pod, behaviour: Behaviour) -> float:
        assert track.started is not None
        due = track.started + behaviour.run_seconds
        if due > time.monotonic():
            return due
        restarts = pod["spec"].get("restartPolicy", "Always")
        if restarts == "Always" or (restarts == "OnFailure" and behaviour.exit_code):
            track.restarts += 1
            track.forced = None
            track.started = time.monotonic() + RESTART_SECONDS
            self._run(track, pod, behaviour, ended=behaviour)
            return track.started
        self._end(track, pod, behaviour)
        return NEVER

    def _end_asked(self, track: _Track, pod: Pod, behaviour: Behaviour) -> float:
        track.stop_since = track.stop_since or time.monotonic()
        due = track.stop_since + behaviour.stop_seconds
        if due > time.monotonic():
            return due
        if pod["status"]["phase"] not in ENDED and track.started is not None:
            last = replace(
                behaviour, exit_code=behaviour.stop_code, message=behaviour.stop_message, reason=""
            )
            self._end(track, pod, last)
        if track.ended is not None:
            due = track.ended + behaviour.remove_seconds
            if due > time.monotonic():
                return due
        if track.told != "deleted":
            body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
            self.cluster.request("DELETE", self._path(pod["metadata"]["name"]), body)
            track.told = "deleted"
        return NEVER

    # Writing

    def _place(self, track: _Track, pod: Pod, behaviour: Behaviour) -> None:
        if behaviour.unschedulable:
            words = behaviour.unschedulable
            self._write(track, pod, words, behaviours.unplaced(words))
        elif track.told != "bound":
            target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
            name = pod["metadata"]["name"]
            binding = {"metadata": {"name": name}, "target": target}
            self.cluster.request("POST", f"{self._path(name)}/binding", binding)
            track.told = "bound"

    def _run(
        self, track: _Track, pod: Pod, behaviour: Behaviour, *, ended: Behaviour | None = None
    ) -> None:
        ready, restarts = behaviour.is_ready, track.restarts
        status = behaviours.running(
            pod, address=track.address, ready=ready, restarts=restarts, ended=ended
        )
        self._write(track, pod, ("running", restarts, ready), status)
        track.started = track.started or time.monotonic()
        if behaviour.progress is not None and not track.serves:
            self._progress.serve(track.address, behaviour.progress)
            track.serves = True

    def _end(self, track: _Track, pod: Pod, behaviour: Behaviour) -> None:
        self._progress.stop(track.address)
        status = behaviours.ended(pod, behaviour, restarts=track.restarts)
        self._write(track, pod, "ended", status)
        track.ended = track.ended or time.monotonic()

    def _write(self, track: _Track, pod: Pod, what: object, status: behaviours.Status) -> None:
        if track.told != what:
            path = f"{self._path(pod['metadata']['name'])}/status"
            metadata = {"uid": pod["metadata"]["uid"]}  # refused if it is another pod by now
            body = {"metadata": metadata, "status": status}
            self.cluster.request("PATCH", path, body, kind=STRATEGIC_PATCH)
            track.told = what

    # The node

    def _make_node(self) -> None:
        node = {"metadata": {"name": self.node}, "spec": {"unschedulable": True}}
        self.cluster.request("POST", "/api/v1/nodes", node)
        room = {"cpu": "1000", "memory": "1Ti", "pods": "1000", names.GPU_RESOURCE: "1000"}
        ready = behaviours.condition("Ready", True, "KubeletReady") | {
            "lastHeartbeatTime": behaviours.now()
        }
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        path = f"/api/v1/nodes/{self.node}/status"
        self.cluster.request("PATCH", path, {"status": status}, kind=STRATEGIC_PATCH)

    def _renew(self) -> None:
        """Keep the node alive in the eyes of the node lifecycle controller."""
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        while not self._stopped.is_set():
            spec = {
                "holderIdentity": self.node,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": behaviours.now().replace("Z", ".000000Z"),
            }
            with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError, OSError):
                query = "?fieldManager=stand-in&force=true"
                lease = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.node},
                    "spec": spec,
                }
                self.cluster.request("PATCH", f"{path}/{self.node}{query}", lease, kind=APPLY_PATCH)
            self._stopped.wait(RENEW_SECONDS)

    def _path(self, pod: str | None = None) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return f"{path}/{pod}" if pod else path

    def _notify(self) -> None:
        with self._changed:
            self._version += 1
            self._changed.notify_all()


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for data in response.stream(None):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"
