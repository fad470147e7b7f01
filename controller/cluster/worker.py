"""One turn for one PanguJob: look, decide, write the status, then act.

The rim around ``reconcile``. Everything here may be done twice, in any order, by a controller that
was killed in between: the status is written before anything is created, with the resource version
that it was decided from; creating what exists and deleting what is gone count as done.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from controller.cluster.actuator import Actuator
from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Cache, Key
from controller.cluster.kinds import CLAIM, JOB, NODE, POD, SERVICE
from controller.cluster.launchers import Launchers
from controller.cluster.recorder import Recorder
from controller.cluster.status_writer import write_status
from controller.cluster.surroundings import Troubles, claim_view, found_service, lost_nodes, rivals
from controller.cluster.workloads import Workloads
from controller.jobs import job_view
from controller.latencies import Latency, latency
from controller.observe import JobView, Observed, attempts_of, is_of_the_store
from controller.reconcile import reconcile
from controller.status import with_condition
from controller.transitions import transitions
from k8s import names
from k8s.defaults import with_pod_defaults
from k8s.placement import PodSettings
from k8s.spec import PanguJob, read_job
from k8s.status import JobStatus, from_dict, from_rfc3339
from pangu_core.errors import ConfigError

Object = dict[str, Any]
PREDECESSOR_SECONDS: Final = 5.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """A job's form, read once for each generation."""

    uid: str
    generation: int
    job: PanguJob | ConfigError
    view: JobView | None


class JobWorker:
    """Turns keys of PanguJobs into what has to be done. Thread-safe: one key at a time each."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        *,
        launchers: Launchers,
        recorder: Recorder,
        store_image: str,
        pod_defaults: PodSettings,
        on_latency: Callable[[Latency], None],
        workloads: Workloads | None = None,
    ) -> None:
        self._api, self._cache = api, cache
        self._launchers, self._recorder, self._on_latency = launchers, recorder, on_latency
        self._actuator = Actuator(api, cache, store_image=store_image)
        self._pod_defaults = pod_defaults
        self._troubles = Troubles(api)
        self._workloads = workloads
        self._forms: dict[Key, _Read] = {}
        self._refusals: dict[Key, str] = {}  # why the last turn could not do all it wanted

    def work(self, key: Key) -> float | None:
        """Do what is due for a job; returns when to look again at the latest (unix seconds).

        Raises:
            ApiError: something could not be written now; to be tried again.
        """
        objects = self._cache.under(key)
        item = next((o for o in objects if o["kind"] == JOB.name), None)
        if item is None or "deletionTimestamp" in item["metadata"]:
            self._forms.pop(key, None)
            self._refusals.pop(key, None)
            self._launchers.forget(key)
            return None  # the garbage collector does the rest
        now = time.time()
        own, foreign = _by_owner(objects, item["metadata"]["uid"])
        if foreign:
            return now + PREDECESSOR_SECONDS  # of a deleted job of this name, not yet collected
        form = self._read(key, item)
        status = from_dict(item.get("status") or {})
        if form.view is None:
            self._refuse(item, status, form, now)
            return None
        return self._decide(key, item, form, status, own, now)

    def _decide(
        self,
        key: Key,
        item: Object,
        form: _Read,
        status: JobStatus,
        own: list[Object],
        now: float,
    ) -> float | None:
        assert form.view is not None
        assert isinstance(form.job, PanguJob)
        observed = self._observe(key, form.view, status, own)
        decision = reconcile(observed, now)
        if decision.status != status:
            item = write_status(self._api, self._cache, item, decision.status)
            self._tell(item, status, decision.status)
        try:
            for action in decision.actions:
                self._actuator.carry_out(action, form.job, item, own)
        except (ApiError, ConfigError) as error:
            if isinstance(error, ConfigError) or error.is_refusal:
                self._refusals[key] = str(error)  # the next turn writes it into the status
            raise
        self._refusals.pop(key, None)
        return decision.requeue_at

    def _observe(self, key: Key, view: JobView, status: JobStatus, own: list[Object]) -> Observed:
        return Observed(
            view,
            status,
            attempts_of(
                own,
                progress=self._answers(key, status, own),
                lost_nodes=lost_nodes(self._cache.all(NODE)),
                trouble=self._troubles.of(status.attempt, own),
            ),
            claim=claim_view(self._cache.all(CLAIM), key[1], view.claim),
            admission=self._workloads.of(status.attempt, own) if self._workloads else None,
            rivals=rivals(self._cache.all(JOB), view, status, time.time()),
            service=found_service(self._cache.all(SERVICE), key) if view.serves else None,
            refusal=self._refusals.get(key, ""),
        )

    def _answers(self, key: Key, status: JobStatus, own: Iterable[Object]) -> Any:
        live = status.attempt
        if live is None or live.stage != names.TRAIN:
            self._launchers.forget(key)
            return {}
        number = str(live.number)
        pods = [
            o
            for o in own
            if o["kind"] == POD.name
            and not is_of_the_store(o)
            and o["metadata"]["labels"].get(names.ATTEMPT_LABEL) == number
            and o["status"]["phase"] == "Running"
            and o["status"].get("podIP")
        ]
        pods.sort(key=lambda pod: (len(pod["metadata"]["name"]), pod["metadata"]["name"]))
        addresses = [pod["status"]["podIP"] for pod in pods]
        return self._launchers.answers(key, (live.stage, live.number), addresses)

    # The form

    def _read(self, key: Key, item: Object) -> _Read:
        metadata = item["metadata"]
        known = self._forms.get(key)
        if known and (known.uid, known.generation) == (metadata["uid"], metadata["generation"]):
            return known
        try:
            job = with_pod_defaults(read_job(item), self._pod_defaults)
            created_at = from_rfc3339(metadata["creationTimestamp"])
            view = job_view(job, generation=metadata["generation"], created_at=created_at)
            form = _Read(metadata["uid"], metadata["generation"], job, view)
        except ConfigError as error:
            form = _Read(metadata["uid"], metadata["generation"], error, None)
        self._forms[key] = form
        return form

    def _refuse(self, item: Object, status: JobStatus, form: _Read, now: float) -> None:
        """Say why the form cannot be worked with; a later generation may mend it."""
        after = with_condition(
            replace(status, observed_generation=form.generation),
            "Accepted",
            "False",
            reason="Invalid",
            message=str(form.job),
            now=math.floor(now),
        )
        if after != status:
            item = write_status(self._api, self._cache, item, after)
            self._recorder.tell(item, "Invalid", str(form.job), is_warning=True)

    # Writes

    def _tell(self, item: Object, before: JobStatus, after: JobStatus) -> None:
        for change in transitions(before, after):
            self._recorder.tell(item, change.reason, change.text, is_warning=change.is_warning)
        created_at = from_rfc3339(item["metadata"]["creationTimestamp"])
        over = latency(before, after, created_at=created_at, now=math.floor(time.time()))
        if over:
            self._on_latency(over)


def key_of(item: Object) -> Key | None:
    """The key of the job or service that an object belongs to; its own for one of these."""
    metadata = item["metadata"]
    if item["kind"] in (JOB.name, SERVICE.name):
        return item["kind"], metadata["namespace"], metadata["name"]
    marks = metadata.get("labels", {})
    for kind, label in ((JOB, names.JOB_LABEL), (SERVICE, names.SERVICE_LABEL)):
        if label in marks:
            return kind.name, metadata["namespace"], marks[label]
    return None


def _by_owner(objects: Iterable[Object], uid: str) -> tuple[list[Object], list[Object]]:
    """A job's objects, and those of an earlier job of its name; the job itself is neither."""
    own: list[Object] = []
    foreign: list[Object] = []
    for item in objects:
        marks = item["metadata"].get("labels", {})
        if names.ATTEMPT_LABEL in marks:
            (own if marks.get(names.UID_LABEL) == uid else foreign).append(item)
    return own, foreign
