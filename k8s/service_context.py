"""What the templates of a service may see: flat and named, everything worked out."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from k8s import names
from k8s.blocks import AutoscaleBlock
from k8s.context import container_security, owners_of, pod_fields, pod_security
from k8s.serving import resources_of
from k8s.spec import PanguService

# Between SIGTERM and the end of a pod, beside its answers: its address is forgotten, the process ends.
_DRAIN_SECONDS: Final = 30
# A model of any size is loaded by then, from a slow volume too.
_START_SECONDS: Final = 1_800
_PROBE_SECONDS: Final = 10


@dataclass(frozen=True)
class ServiceContext:
    """Context of the manifests of one service."""

    name: str
    namespace: str | None
    owners: list[dict[str, Any]]
    labels: dict[str, str]
    selector: dict[str, str]
    config_name: str
    config_text: str

    replicas: int
    pod_labels: dict[str, str]
    pod_annotations: dict[str, str]
    pod_fields: dict[str, Any]
    image: str
    image_pull_policy: str | None
    claim_name: str
    resources: dict[str, Any]
    env: list[dict[str, Any]]
    env_from: list[dict[str, Any]]
    volumes: list[dict[str, Any]]
    volume_mounts: list[dict[str, Any]]
    api_keys_secret: str | None
    grace_seconds: int

    min_pods: int
    max_pods: int
    cpu_percent: int | None
    waiting: int | None
    prometheus: str | None
    waiting_query: str

    command: list[str] = field(default_factory=lambda: names.entry_command("serve"))
    config_path: str = f"{names.CONFIG_MOUNT}/{names.CONFIG_KEY}"
    spread_over: str = names.HOST_LABEL
    probe_seconds: int = _PROBE_SECONDS
    start_probes: int = _START_SECONDS // _PROBE_SECONDS
    progress_seconds: int = _START_SECONDS + 300
    pod_security: dict[str, Any] = field(default_factory=pod_security)
    container_security: dict[str, Any] = field(default_factory=container_security)


def service_context(service: PanguService, *, config_text: str) -> ServiceContext:
    """Work out everything that the templates of a service need."""
    spec, pods = service.spec, service.spec.pods
    values = pods.dump()
    resources = resources_of(service).dump()
    labels = names.service_labels(service.name, service.uid)
    checksum = hashlib.sha256(config_text.encode()).hexdigest()
    scale = spec.autoscale or AutoscaleBlock(max=1, cpu_percent=100)
    return ServiceContext(
        name=service.name,
        namespace=service.metadata.namespace,
        owners=owners_of(service),
        labels=labels,
        selector=names.service_selector(service.name),
        config_name=names.service_config(service.name, checksum),
        config_text=config_text,
        replicas=spec.replicas,
        pod_labels=pods.labels | labels,
        pod_annotations=pods.annotations | _versions(service, checksum),
        pod_fields=pod_fields(pods) | ({"affinity": pods.affinity} if pods.affinity else {}),
        image=spec.image,
        image_pull_policy=pods.image_pull_policy,
        claim_name=str(spec.workspace.claim_name),
        resources={key: value for key, value in resources.items() if value},
        env=values["env"],
        env_from=values["envFrom"],
        volumes=values["volumes"],
        volume_mounts=values["volumeMounts"],
        api_keys_secret=spec.api_keys.secret_name if spec.api_keys else None,
        grace_seconds=max(spec.answer_seconds + _DRAIN_SECONDS, pods.grace_period),
        min_pods=scale.min,
        max_pods=scale.max,
        cpu_percent=scale.cpu_percent,
        waiting=scale.waiting,
        prometheus=scale.prometheus,
        waiting_query=_waiting_query(service),
    )


def _versions(service: PanguService, checksum: str) -> dict[str, str]:
    """What a pod was started with: its config's checksum, and its model's version if it has one."""
    model = service.metadata.annotations.get(names.MODEL_VERSION_ANNOTATION)
    versions = {names.CHECKSUM_ANNOTATION: checksum}
    return versions | ({names.MODEL_VERSION_ANNOTATION: model} if model else {})


def _waiting_query(service: PanguService) -> str:
    """PromQL for the texts that wait in all pods of a service, by the labels of a PodMonitor."""
    place = service.metadata.namespace
    where = [f'namespace="{place}"'] if place else []
    where.append(f'pod=~"{service.name}-[a-z0-9]+-[a-z0-9]{{5}}"')
    return f"sum({names.WAITING_METRIC}{{{', '.join(where)}}})"
