"""Every kind that is read or written, and its path in the API."""

from dataclasses import dataclass
from typing import Any, Final

from k8s import names


@dataclass(frozen=True)
class Kind:
    """One kind of one API version; all that we use are namespaced unless marked."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, part: str = "") -> str:
        """The path of a collection, of one object, or of a subresource of it.

        Args:
            namespace: None for all namespaces, or for what lies in none.
            name: of one object.
            part: the subresource, such as ``status``.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(p for p in (f"{root}{place}/{self.plural}", name, part) if p)


JOB: Final = Kind(names.GROUP, "v1alpha1", "pangujobs", names.JOB_KIND)
SERVICE: Final = Kind(names.GROUP, "v1alpha1", "panguservices", names.SERVICE_KIND)
POD: Final = Kind("", "v1", "pods", "Pod")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
SECRET: Final = Kind("", "v1", "secrets", "Secret")
CORE_SERVICE: Final = Kind("", "v1", "services", "Service")
CLAIM: Final = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENT: Final = Kind("", "v1", "events", "Event")
NODE: Final = Kind("", "v1", "nodes", "Node", namespaced=False)
DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
BATCH_JOB: Final = Kind("batch", "v1", "jobs", "Job")
PYTORCH_JOB: Final = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
DISRUPTION_BUDGET: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALER: Final = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SCALED_OBJECT: Final = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
# Kueue's, in the version that it stores; we only read it, where we may.
WORKLOAD: Final = Kind("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
ACCESS_REVIEW: Final = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
    namespaced=False,
)  # fmt: skip

_ALL: Final = (
    JOB, SERVICE, POD, CONFIG_MAP, SECRET, CORE_SERVICE, CLAIM, EVENT, NODE, DEPLOYMENT, BATCH_JOB,
    PYTORCH_JOB, DISRUPTION_BUDGET, AUTOSCALER, SCALED_OBJECT, LEASE,
)  # fmt: skip
_BY_NAME: Final = {(kind.api_version, kind.name): kind for kind in _ALL}


def kind_of(manifest: dict[str, Any]) -> Kind:
    """The kind of a manifest.

    Raises:
        KeyError: we have nothing to do with it.
    """
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
