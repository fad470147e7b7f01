"""Pods and Jobs that look after a workspace from outside a job: for copies, and to clean up."""

from dataclasses import dataclass, field
from typing import Any, Final

from k8s import names
from k8s.context import container_security, pod_fields, pod_security
from k8s.placement import PodSettings
from k8s.spec import PanguJob
from pangu_core.workspace import RunPaths

CONTAINER: Final = "helper"
# A copy that takes longer is begun anew; a pod whose owner went away is gone then.
LIMIT_SECONDS: Final = 24 * 3_600
KEPT_SECONDS: Final = 3_600  # a clean-up that has ended, for its log
_RESOURCES: Final[dict[str, Any]] = {"requests": {"cpu": "100m", "memory": "64Mi"}}


@dataclass(frozen=True)
class HelperContext:
    """Context of a pod with a workspace."""

    name: str
    namespace: str
    labels: dict[str, str]
    claim_name: str
    image: str
    command: list[str]
    pod_fields: dict[str, Any]
    limit_seconds: int = LIMIT_SECONDS
    kept_seconds: int = KEPT_SECONDS
    container_name: str = CONTAINER
    resources: dict[str, Any] = field(default_factory=lambda: dict(_RESOURCES))
    pod_security: dict[str, Any] = field(default_factory=pod_security)
    container_security: dict[str, Any] = field(default_factory=container_security)


def copy_context(
    name: str, namespace: str, *, claim: str, image: str, pods: PodSettings
) -> HelperContext:
    """A pod that waits for commands; placed as a job's pods are, where a job is named."""
    return HelperContext(
        name=name,
        namespace=namespace,
        labels=_labels("copy"),
        claim_name=claim,
        image=image,
        command=["sleep", str(LIMIT_SECONDS)],
        pod_fields=pod_fields(pods),
    )


def clean_up_context(job: PanguJob, namespace: str) -> HelperContext:
    """A Job that deletes what a job wrote to its workspace."""
    folder = f"{names.WORKSPACE_MOUNT}/{RunPaths(job.name).root}"
    return HelperContext(
        name=names.clean_up(job.name, job.uid),
        namespace=namespace,
        labels=_labels("clean-up"),
        claim_name=job.spec.workspace.claim_name or names.workspace_claim(job.name),
        image=job.spec.image,
        command=["rm", "-rf", "--", folder],
        pod_fields=pod_fields(job.spec.pods),
    )


def _labels(component: str) -> dict[str, str]:
    return names.APPLICATION_LABELS | {names.COMPONENT_LABEL: component}
