"""What the controller counts, for Prometheus."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controller.cluster import kinds
from controller.cluster.cache import Cache, Key
from controller.cluster.work_queue import WorkQueue
from controller.latencies import Latency
from controller.usage import counted
from k8s.status import GpuUsage, from_dict

_GPU_PARTS: Final = ("used", "redone", "waiting", "surplus")
_WAITS: Final = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1_800, 3_600, 14_400)
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One registry; ``generate_latest`` of it answers /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leads = Gauge(
            "pangu_controller_leader", "1 while this replica works", registry=self.registry
        )
        self.failures = PrometheusCounter(
            "pangu_controller_failures", "Turns that failed and come again", ("error",),
            registry=self.registry,
        )  # fmt: skip
        self._waits = {
            kind: Histogram(
                f"pangu_job_{kind}_seconds", text, registry=self.registry, buckets=_WAITS
            )
            for kind, text in (
                ("start", "From a job's creation to its first pod that runs"),
                ("recovery", "From a failed attempt's end to a pod of the next that runs"),
            )
        }
        self._seconds = Histogram(
            "pangu_controller_turn_seconds", "Time of one turn for one job",
            registry=self.registry, buckets=_BUCKETS,
        )  # fmt: skip

    def watch(self, *, queue: WorkQueue[Key], cache: Cache) -> None:
        """Count what waits in a queue, and the jobs in a cache by phase, whenever asked."""
        self.registry.register(_Now(queue, cache))

    def measure(self, latency: Latency) -> None:
        """Count a wait that is over."""
        self._waits[latency.kind].observe(latency.seconds)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Time one turn."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.observe(time.perf_counter() - begin)


class _Now(Collector):
    """Gauges that are counted when somebody asks."""

    def __init__(self, queue: WorkQueue[Key], cache: Cache) -> None:
        self._queue, self._cache = queue, cache

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The present values."""
        yield GaugeMetricFamily(
            "pangu_controller_queue_length", "Jobs waiting or being worked on", len(self._queue)
        )
        phases = Counter(
            item.get("status", {}).get("phase", "Pending") for item in self._cache.all(kinds.JOB)
        )
        family = GaugeMetricFamily("pangu_jobs", "PanguJobs by phase", labels=["phase"])
        for phase, count in sorted(phases.items()):
            family.add_metric([phase], count)
        yield family
        yield self._gpu_seconds()

    def _gpu_seconds(self) -> GaugeMetricFamily:
        totals = Counter(dict.fromkeys(_GPU_PARTS, 0))
        for item in self._cache.all(kinds.JOB):
            if "gpu" in item.get("status", {}):
                usage = from_dict({"gpu": item["status"]["gpu"]}).gpu or GpuUsage()
                present = counted(usage, int(time.time()))
                totals.update({part: getattr(present, f"{part}_seconds") for part in _GPU_PARTS})
        family = GaugeMetricFamily(
            "pangu_gpu_seconds",
            "GPU-seconds of the PanguJobs that exist: used, and which of them were wasted",
            labels=["part"],
        )
        for part, seconds in totals.items():
            family.add_metric([part], seconds)
        return family
