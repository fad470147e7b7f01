"""The controller: caches, a queue, workers, and the Lease that says whether they work.

Both replicas keep their caches warm, so that a take-over begins at once; only the holder of the
Lease runs workers. A lost Lease ends the process: its replacement begins with nothing half done.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from controller.cluster import kinds
from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Cache, Key
from controller.cluster.launchers import Launchers
from controller.cluster.lease import DEFAULT_TIMING, LeaseLoop, Timing
from controller.cluster.metrics import Metrics
from controller.cluster.recorder import Recorder
from controller.cluster.reflector import Reflector, Source
from controller.cluster.service_worker import ServiceWorker
from controller.cluster.territory import Territory
from controller.cluster.work_queue import WorkQueue
from controller.cluster.worker import JobWorker, key_of
from controller.cluster.workloads import Workloads
from k8s import names
from k8s.placement import PodSettings
from pangu_core.errors import ConfigError

LEASE_NAME: Final = "pangu-controller"
# A worker that is in the middle of a turn when the Lease is lost has this long to end it: the
# distance between giving up and anybody else's beginning.
FINISH_SECONDS: Final = 4.0
# A reflector that heard nothing for so long is stuck: bookmarks come once a minute.
SILENCE_LIMIT_SECONDS: Final = 600.0
# Between two looks whether another controller has left a namespace.
FOREIGN_SECONDS: Final = 30.0
# What all objects of jobs and services bear, pods included.
OURS: Final = ",".join(f"{key}={value}" for key, value in names.APPLICATION_LABELS.items())
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a controller runs."""

    identity: str  # of this replica, unique
    lease_namespace: str
    namespaces: tuple[str, ...] = ()  # none: all
    pod_defaults: PodSettings = field(default_factory=PodSettings)  # of every job and service
    store_image: str = ""
    workers: int = 16
    watch_nodes: bool = False
    watch_autoscalers: bool = False
    watch_queues: bool = False
    progress_port: int = names.PROGRESS_PORT
    timing: Timing = DEFAULT_TIMING


class Manager:
    """One replica of the controller."""

    def __init__(self, api: Api, settings: Settings, metrics: Metrics) -> None:
        self._api, self._settings, self._metrics = api, settings, metrics
        self._queue: WorkQueue[Key] = WorkQueue()
        self._cache = Cache(key_of, self._queue.add)
        self._reflectors = [Reflector(api, source, self._cache) for source in sources(settings)]
        self._recorder = Recorder(api, settings.identity)
        self._territory = Territory(api, is_everywhere=not settings.namespaces)
        self._launchers = Launchers(self._queue.add, port=settings.progress_port)
        self._worker = JobWorker(
            api,
            self._cache,
            launchers=self._launchers,
            recorder=self._recorder,
            store_image=settings.store_image,
            pod_defaults=settings.pod_defaults,
            on_latency=metrics.measure,
            workloads=Workloads(api) if settings.watch_queues else None,
        )
        self._service_worker = ServiceWorker(
            api,
            self._cache,
            recorder=self._recorder,
            pod_defaults=settings.pod_defaults,
            installed=self._installed,
        )
        self._lease = LeaseLoop(
            api,
            namespace=settings.lease_namespace,
            name=LEASE_NAME,
            identity=settings.identity,
            timing=settings.timing,
        )
        self._threads: list[threading.Thread] = []
        metrics.watch(queue=self._queue, cache=self._cache)

    @property
    def is_ready(self) -> bool:
        """Whether every kind was listed once."""
        return all(reflector.has_settled for reflector in self._reflectors)

    @property
    def is_alive(self) -> bool:
        """Whether the server was heard of not long ago, and no worker is dead."""
        heard = min(reflector.heard_at for reflector in self._reflectors)
        silent = time.monotonic() - heard > SILENCE_LIMIT_SECONDS
        return not silent and all(thread.is_alive() for thread in self._threads)

    def run(self) -> bool:
        """Work until stopped (True) or until the Lease is lost (False)."""
        for reflector in self._reflectors:
            reflector.start()
        was_stopped = self._lease.hold(self._begin, self._end)
        for reflector in self._reflectors:
            reflector.stop()
        self._queue.close()
        self._launchers.close()
        self._recorder.close()
        return was_stopped

    def stop(self) -> None:
        """End ``run`` and give the Lease back; safe in a signal handler."""
        self._lease.stop()

    def _begin(self) -> None:
        self._metrics.leads.set(1)
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{index}", daemon=True)
            for index in range(self._settings.workers)
        ]
        for thread in self._threads:
            thread.start()

    def _end(self) -> None:
        self._metrics.leads.set(0)
        self._queue.close()
        limit = time.monotonic() + FINISH_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, limit - time.monotonic()))

    def _work(self) -> None:
        while not self.is_ready:  # deciding on half a picture would start things twice
            time.sleep(0.05)
        while (key := self._queue.take()) is not None:
            try:
                self._turn(key)
            finally:
                self._queue.done(key)

    def _turn(self, key: Key) -> None:
        with self._metrics.turn():
            try:
                due = self._work_on(key)
            except ApiError as error:
                self._fail(key, error, is_loud=not error.is_conflict)
                return
            except ConfigError as error:
                self._fail(key, error, is_loud=True)
                return
            except Exception as error:  # the border: one job's trouble must not stop the others
                logger.exception("%s/%s", key[1], key[2])
                self._fail(key, error, is_loud=False)
                return
        self._queue.succeeded(key)
        if due is not None:
            self._queue.add_at(key, time.monotonic() + max(0.0, due - time.time()))

    def _work_on(self, key: Key) -> float | None:
        if not self._territory.has(key[1]):
            return time.time() + FOREIGN_SECONDS
        worker = self._service_worker if key[0] == kinds.SERVICE.name else self._worker
        return worker.work(key)

    def _installed(self) -> frozenset[str]:
        """Kinds that are watched and exist."""
        return frozenset(r.kind.name for r in self._reflectors if r.is_installed)

    def _fail(self, key: Key, error: Exception, *, is_loud: bool) -> None:
        wait = self._queue.retry(key)
        self._metrics.failures.labels(type(error).__name__).inc()
        if is_loud:
            logger.warning("%s/%s: %s; again in %.1f s", key[1], key[2], error, wait)


def sources(settings: Settings) -> list[Source]:
    """What a controller watches."""
    found = [source for place in settings.namespaces or (None,) for source in _sources_in(place)]
    if settings.watch_autoscalers:
        for place in settings.namespaces or (None,):
            found.append(Source(kinds.AUTOSCALER, place, selector=OURS))
            found.append(Source(kinds.SCALED_OBJECT, place, selector=OURS, optional=True))
    if settings.watch_nodes:
        found.append(Source(kinds.NODE, None))
    return found


def _sources_in(namespace: str | None) -> list[Source]:
    return [
        Source(kinds.JOB, namespace),
        Source(kinds.SERVICE, namespace),
        *(
            Source(kind, namespace, selector=OURS)
            for kind in (
                kinds.POD, kinds.CONFIG_MAP, kinds.CORE_SERVICE, kinds.DEPLOYMENT, kinds.BATCH_JOB,
                kinds.DISRUPTION_BUDGET,
            )
        ),
        Source(kinds.PYTORCH_JOB, namespace, selector=OURS, optional=True),
        Source(kinds.CLAIM, namespace),
    ]  # fmt: skip
