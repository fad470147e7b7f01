"""Manifests -> problems: names, labels and references that must agree. Needs no library.

Schemas are checked by the tests, which may use a library; this catches what a schema cannot.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from k8s import names

Manifest = dict[str, Any]
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LABEL: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")


def problems(manifests: Iterable[Manifest]) -> list[str]:
    """Everything that does not agree, each as one line that begins with kind and name."""
    manifests = list(manifests)
    found = [*_duplicates(manifests), *_services_without_pods(manifests)]
    config_maps = {each["metadata"]["name"] for each in manifests if each["kind"] == "ConfigMap"}
    for manifest in manifests:
        who = f"{manifest['kind']} {manifest['metadata']['name']}"
        found += [f"{who}: {what}" for what in _of_one(manifest, config_maps)]
    return found


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod template in a manifest, if it has one."""
    spec = manifest.get("spec", {})
    workers = spec.get("pytorchReplicaSpecs", {}).get("Worker", spec)
    template: Manifest | None = workers.get("template")
    return template


def _of_one(manifest: Manifest, config_maps: set[str]) -> Iterator[str]:
    yield from _bad_names(manifest)
    yield from _bad_labels(manifest["metadata"].get("labels", {}))
    pod = pod_of(manifest)
    if pod is None:
        return
    labels = pod["metadata"]["labels"]
    yield from _bad_labels(labels)
    selector = manifest["spec"].get("selector", {}).get("matchLabels", {})
    if not selector.items() <= labels.items():
        yield "its selector does not match its own pods"
    volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
    yield from _repeated("volume", volumes)
    for volume in pod["spec"].get("volumes", []):
        config_map = volume.get("configMap", {})
        if volume["name"] in names.MOUNTS and config_map.get("name", "") not in config_maps | {""}:
            yield f"config map {config_map['name']} is not among the manifests"
    for container in pod["spec"]["containers"]:
        yield from _of_container(container, volumes)


def _of_container(container: Manifest, volumes: list[str]) -> Iterator[str]:
    mounts = container.get("volumeMounts", [])
    yield from _repeated("variable", [each["name"] for each in container.get("env", [])])
    yield from _repeated("mount path", [each["mountPath"] for each in mounts])
    yield from _repeated("port", [each["name"] for each in container.get("ports", [])])
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"mounts volume {mount['name']}, which does not exist"


def _bad_names(manifest: Manifest) -> Iterator[str]:
    name = manifest["metadata"]["name"]
    longest = name
    if manifest["kind"] == "PyTorchJob":
        longest = f"{name}-worker-{manifest['spec']['elasticPolicy']['maxReplicas'] - 1}"
    if not _NAME.fullmatch(name):
        yield "is not a DNS name"
    if len(longest) > names.NAME_LIMIT:
        yield f"{longest} has more than {names.NAME_LIMIT} characters"


def _bad_labels(labels: dict[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if len(value) > names.NAME_LIMIT or not _LABEL.fullmatch(value):
            yield f"label {key} has the value {value!r}, which no label may have"


def _duplicates(manifests: list[Manifest]) -> Iterator[str]:
    yield from _repeated("object", [f"{x['kind']} {x['metadata']['name']}" for x in manifests])


def _services_without_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Services that pick no pod template, or a port that the template does not have."""
    pods = [pod for pod in map(pod_of, manifests) if pod is not None]
    for service in (each for each in manifests if each["kind"] == "Service"):
        who, selector = f"Service {service['metadata']['name']}", service["spec"]["selector"]
        picked = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
        if not picked:
            yield f"{who}: selects no pod"
        ports = {p["name"] for x in picked for c in x["spec"]["containers"] for p in c["ports"]}
        for port in service["spec"]["ports"]:
            if picked and port["targetPort"] not in ports:
                yield f"{who}: its port {port['targetPort']} is no port of its pods"


def _repeated(what: str, values: list[str]) -> Iterator[str]:
    for value in sorted({value for value in values if values.count(value) > 1}):
        yield f"{what} {value} appears more than once"
