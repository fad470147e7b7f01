"""The call about a job's end: what its pod is told, and the context of its manifests."""

from dataclasses import dataclass, field
from typing import Any

from k8s import names
from k8s.context import container_security, owners_of, pod_fields, pod_security
from k8s.spec import PanguJob
from pangu_core.config.stages import NotifyConfig


@dataclass(frozen=True)
class NoticeContext:
    """Context of the manifests of one call."""

    name: str
    namespace: str | None
    owners: list[dict[str, Any]]
    labels: dict[str, str]
    config_text: str
    image: str
    command: list[str]
    secret_name: str | None
    env: list[dict[str, Any]]
    pod_fields: dict[str, Any]
    config_path: str = f"{names.CONFIG_MOUNT}/{names.CONFIG_KEY}"
    replaceable_exit_codes: list[int] = field(default_factory=lambda: list(range(128, 256)))
    pod_security: dict[str, Any] = field(default_factory=pod_security)
    container_security: dict[str, Any] = field(default_factory=container_security)


def notice_config(job: PanguJob, number: int, body: str) -> NotifyConfig:
    """What the pod reads."""
    assert job.spec.notify is not None
    return NotifyConfig(url=job.spec.notify.url, body=body, key=f"{job.uid}-{number}")


def notice_context(job: PanguJob, number: int, *, config_text: str, image: str) -> NoticeContext:
    """Work out everything that the templates of a call need.

    Args:
        job: what ended.
        number: counts its ends.
        config_text: of the pod's ConfigMap.
        image: the controller's own, which has no torch.
    """
    assert job.spec.notify is not None
    secret = job.spec.notify.secret_ref
    return NoticeContext(
        name=names.stage_object(job.name, names.NOTIFY, number),
        namespace=job.metadata.namespace,
        owners=owners_of(job),
        labels=names.labels(job.name, job.uid, names.NOTIFY, number, names.NOTIFY),
        config_text=config_text,
        image=image,
        command=names.entry_command(names.NOTIFY),
        secret_name=secret.name if secret else None,
        env=job.spec.pods.dump()["env"],  # a proxy's address may be among them
        pod_fields=pod_fields(job.spec.pods),
    )
