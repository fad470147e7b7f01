"""``pangu logs``: what pods print; waits for them, and goes on with those that come after them."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from controller.cluster.access import cluster, cluster_options, get_either, get_job
from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import POD, SERVICE
from controller.observe import REPLICA_INDEX
from k8s import names
from k8s.status import from_dict

Object = dict[str, Any]
PERIOD_SECONDS: Final = 1.0


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=click.IntRange(0), help="One training pod only, by its index.")
@cluster_options
def logs(
    name: str, follow: bool, rank: int | None, context: str | None, namespace: str | None
) -> None:
    """Print what the pods of a job or a service print, each line with its pod in front.

    NAME is a job's, else a service's; ps/NAME is a service's in any case.
    """
    with cluster(context, namespace) as api:
        item = get_either(api, name)
        lines = _followed(api, item, rank) if follow else _present(api, item, rank)
        for line in lines:
            click.echo(line)


def _present(api: Api, item: Object, rank: int | None) -> Iterator[str]:
    for pod in _pods(api, item, rank):
        try:
            text = api.text(_path(pod), {"container": _container(pod)})
        except ApiError as error:
            text = f"(no log: {error})"
        yield from (f"{_prefix(pod)} {line}" for line in text.splitlines())


def _followed(api: Api, item: Object, rank: int | None) -> Iterator[str]:
    """A thread reads each pod; new pods are looked for while the job or service lives."""
    heard: queue.Queue[str] = queue.Queue()
    readers: dict[str, threading.Thread] = {}
    while True:
        is_over = _is_over(api, item)
        for pod in _pods(api, item, rank):
            uid = pod["metadata"]["uid"]
            if uid not in readers and pod["status"].get("phase") != "Pending":
                reader = threading.Thread(target=_read, args=(api, pod, heard), daemon=True)
                readers[uid] = reader
                reader.start()
        yield from _drained(heard, PERIOD_SECONDS)
        if is_over and not any(reader.is_alive() for reader in readers.values()):
            yield from _drained(heard, 0.0)
            return


def _read(api: Api, pod: Object, heard: "queue.Queue[str]") -> None:
    query = {"follow": "true", "container": _container(pod)}
    try:
        for line in api.stream(_path(pod), query):
            heard.put(f"{_prefix(pod)} {line}")
    except ApiError as error:
        heard.put(f"{_prefix(pod)} (the log ends: {error})")


def _drained(heard: "queue.Queue[str]", seconds: float) -> Iterator[str]:
    limit = time.monotonic() + seconds
    while True:
        try:
            yield heard.get(timeout=max(0.0, limit - time.monotonic()))
        except queue.Empty:
            return


def _is_over(api: Api, item: Object) -> bool:
    """Whether no pod will come any more; a service has no end but its deletion."""
    if item["kind"] == SERVICE.name:
        return False
    return from_dict(get_job(api, item["metadata"]["name"]).get("status") or {}).is_terminal


def _pods(api: Api, item: Object, rank: int | None) -> list[Object]:
    label = names.SERVICE_LABEL if item["kind"] == SERVICE.name else names.JOB_LABEL
    selector = f"{label}={item['metadata']['name']}"
    pods = api.list(POD, api.namespace, labelSelector=selector)["items"]
    if rank is not None:
        wanted = {names.STAGE_LABEL: names.TRAIN, REPLICA_INDEX: str(rank)}
        pods = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
    return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])


def _prefix(pod: Object) -> str:
    labels = pod["metadata"]["labels"]
    if names.SERVICE_LABEL in labels:
        return f"[{pod['metadata']['name']}]"
    stage = labels.get(names.STAGE_LABEL, "?")
    index = labels.get(REPLICA_INDEX)
    component = labels.get(names.COMPONENT_LABEL)
    word = stage if component == stage else component
    return f"[{word}-{labels.get(names.ATTEMPT_LABEL)}{'/' + index if index else ''}]"


def _path(pod: Object) -> str:
    metadata = pod["metadata"]
    return POD.path(metadata["namespace"], metadata["name"], "log")


def _container(pod: Object) -> str:
    name: str = pod["spec"]["containers"][0]["name"]
    return name
