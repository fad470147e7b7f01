"""The command: ``python -m bench.control_plane``, from the checkout, on an idle machine.

For each number of jobs: a fresh etcd, API server and controller manager (the training operator is
off), one controller as a process of its own, jobs created at once. Then the memory of a replica that
has just listed everything, a minute in which nothing should be written, and the leader's kill -9.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import click

from bench.control_plane.load import Load
from bench.control_plane.replica import USER, Replica
from bench.control_plane.writes import counted, writes_of
from tests.cluster import binaries
from tests.cluster.control_plane import API_SERVER, CONTROLLER_MANAGER, OPERATOR, ControlPlane

CRDS = Path(__file__).parents[2] / "k8s" / "crds"
QUIET_SECONDS = 60.0
SETTLE_LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Result:
    """What was measured with one number of jobs."""

    jobs: int
    create_seconds: float  # the client's
    p50_seconds: float
    p99_seconds: float
    writes: dict[str, int]
    writes_per_job: float
    cpu_seconds: float
    rss_megabytes: float
    fresh_rss_megabytes: float
    quiet_writes: dict[str, int]
    failover_seconds: list[float]


def measure(folder: Path, jobs: int, *, failovers: int) -> Result:
    """Measure with one number of jobs, in a folder for state and logs."""
    plane = ControlPlane(
        folder,
        components=(CONTROLLER_MANAGER,),
        audit=True,
        manifests=(*CRDS.glob("*.yaml"), binaries.find_file("crd.yaml", OPERATOR)),
        flags={API_SERVER: ("--audit-log-maxsize=4000",)},
    )
    with plane, plane.namespace() as namespace:
        return _measure(plane, namespace, jobs, failovers=failovers)


def _measure(plane: ControlPlane, namespace: str, jobs: int, *, failovers: int) -> Result:
    kubeconfig = plane.user(USER, ("system:masters",))

    def start() -> Replica:
        return Replica(kubeconfig, namespace, plane.folder / "controller.log")

    load = Load(plane, namespace)
    leader = start()
    replicas = [leader]
    try:
        wait_until(lambda: leader.leads and leader.is_ready)
        wanted = [f"novel-{number}" for number in range(jobs)]
        create_seconds = load.create(wanted)
        waits = load.wait(wanted)
        settle(plane, leader)
        writes = writes_of(plane.audit_events(), USER)
        cpu_seconds = leader.cpu_seconds
        since = _stamp()
        time.sleep(QUIET_SECONDS)
        quiet = writes_of(plane.audit_events(), USER, since=since, until=_stamp())
        standby = start()
        replicas.append(standby)
        wait_until(lambda: standby.is_ready)
        time.sleep(5)
        rss, fresh = leader.rss_megabytes, standby.rss_megabytes
        taken = []
        for number in range(failovers):
            taken.append(fail_over(load, replicas[-2], name=f"after-{number}"))
            replicas.append(start())
            wait_until(lambda: replicas[-1].is_ready)
    finally:
        for replica in replicas:
            replica.kill()
    cut = quantiles(waits, n=100, method="inclusive")
    return Result(
        jobs=jobs,
        create_seconds=create_seconds,
        p50_seconds=median(waits),
        p99_seconds=cut[98],
        writes=dict(writes),
        writes_per_job=counted(writes) / jobs,
        cpu_seconds=cpu_seconds,
        rss_megabytes=rss,
        fresh_rss_megabytes=fresh,
        quiet_writes=dict(quiet),
        failover_seconds=taken,
    )


def fail_over(load: Load, leader: Replica, *, name: str) -> float:
    """Kill the leader, create a job; seconds until the other replica has begun it."""
    begin = time.monotonic()
    leader.kill()
    load.create([name])
    load.wait([name])
    return time.monotonic() - begin


def settle(plane: ControlPlane, leader: Replica) -> None:
    """Wait until the queue is empty and ten seconds pass in which nothing counted is written."""
    deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
    while time.monotonic() < deadline:
        since = _stamp()
        time.sleep(10)
        recent = writes_of(plane.audit_events(), USER, since=since)
        if not recent.keys() - {"update leases"} and not leader.queue_length:
            return
    say("it did not settle")


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the controller did not get ready; see its log")
        time.sleep(0.1)


def table(results: list[Result]) -> str:
    """One row for each number of jobs, as Markdown."""
    rows = [
        "| jobs | created in | p50 | p99 | writes a job | CPU a job | memory | after a fresh list "
        "| writes in a quiet minute | fail-over |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        quiet = ", ".join(f"{n} {what}" for what, n in r.quiet_writes.items()) or "none"
        taken = ", ".join(f"{s:.1f}" for s in r.failover_seconds)
        rows.append(
            f"| {r.jobs:,} | {r.create_seconds:.1f} s | {r.p50_seconds:.2f} s | {r.p99_seconds:.2f} s "
            f"| {r.writes_per_job:.2f} | {1000 * r.cpu_seconds / r.jobs:.1f} ms "
            f"| {r.rss_megabytes:.0f} MB | {r.fresh_rss_megabytes:.0f} MB | {quiet} | {taken} s |"
        )
    return "\n".join(rows)


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@click.command()
@click.option("--jobs", default="100,300,1000,3000", show_default=True, help="Numbers of jobs.")
@click.option("--failovers", default=3, show_default=True, help="Leaders killed with each number.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep state and logs there.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures there.")
def main(jobs: str, failovers: int, folder: Path | None, target: Path | None) -> None:
    """Measure, and print one table."""
    load = os.getloadavg()[0]
    say(f"{os.cpu_count()} cores, load {load:.2f}; create: 8 threads; no client rate limits")
    results = []
    with tempfile.TemporaryDirectory(prefix="pangu-bench-") as temporary:
        for number in jobs.split(","):
            place = (folder or Path(temporary)) / number
            results.append(measure(place, int(number), failovers=failovers))
            say(table(results[-1:]).rpartition("\n")[2])
            say(f"writes: {results[-1].writes}")
    print(table(results))
    if target:
        target.write_text(json.dumps([asdict(r) for r in results], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
