"""What the controller keeps of each object: the fields that somebody reads, and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from controller.cluster import kinds
from controller.cluster.kinds import Kind
from k8s import names

Object = dict[str, Any]
_METADATA: Final = (
    "name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations",
    "ownerReferences", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip
# kubectl apply's copy of the whole object.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def ours(item: Object) -> Object:
    """A PanguJob or PanguService: all of it but the bookkeeping of its writers."""
    return {"metadata": _metadata(item), "spec": item["spec"], "status": item.get("status", {})}


def marker(item: Object) -> Object:
    """An object whose existence is all that matters."""
    return {"metadata": _metadata(item)}


def conditions(item: Object) -> Object:
    """A Job: its conditions and counts."""
    return {"metadata": _metadata(item), "status": item.get("status", {})}


def applied(item: Object) -> Object:
    """Of a service, what has to stay as it was applied, with its status; else the status alone."""
    if not _is_of_a_service(item):
        return conditions(item)
    return {"spec": item["spec"], **conditions(item)}


def batch_job(item: Object) -> Object:
    """A Job: its conditions and counts, and whether it is suspended."""
    return {**conditions(item), "spec": {"suspend": item["spec"].get("suspend", False)}}


def pytorch_job(item: Object) -> Object:
    """A PyTorchJob: its conditions, whether it is suspended, and how many workers it asks for."""
    spec = item["spec"]
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    return {
        "metadata": _metadata(item),
        "spec": {
            "runPolicy": {"suspend": spec.get("runPolicy", {}).get("suspend", False)},
            "pytorchReplicaSpecs": {"Worker": {"replicas": worker.get("replicas", 1)}},
        },
        "status": {"conditions": item.get("status", {}).get("conditions") or []},
    }


def pod(item: Object) -> Object:
    """A pod: where it is, how it is, how it ended."""
    status = item.get("status", {})
    return {
        "metadata": _metadata(item),
        "spec": {"nodeName": item["spec"].get("nodeName")},
        "status": {
            "phase": status.get("phase", "Pending"),
            "reason": status.get("reason", ""),
            "podIP": status.get("podIP"),
            "conditions": [_condition(c) for c in status.get("conditions", ())],
            "containerStatuses": [
                {key: c[key] for key in _wanted_of_containers(item) if key in c}
                for c in status.get("containerStatuses", ())
            ],
        },
    }


def claim(item: Object) -> Object:
    """A claim: how it may be mounted and whether it is bound."""
    return {
        "metadata": _metadata(item),
        "spec": {"accessModes": item["spec"].get("accessModes", [])},
        "status": {"phase": item.get("status", {}).get("phase", "Pending")},
    }


def node(item: Object) -> Object:
    """A node: whether it is ready."""
    found = item.get("status", {}).get("conditions", ())
    return {
        "metadata": _metadata(item),
        "status": {"conditions": [_condition(c) for c in found if c["type"] == "Ready"]},
    }


PROJECTIONS: Final[Mapping[Kind, Callable[[Object], Object]]] = {
    kinds.JOB: ours,
    kinds.SERVICE: ours,
    kinds.PYTORCH_JOB: pytorch_job,
    kinds.BATCH_JOB: batch_job,
    kinds.DEPLOYMENT: applied,
    kinds.DISRUPTION_BUDGET: applied,
    kinds.AUTOSCALER: applied,
    kinds.SCALED_OBJECT: applied,
    kinds.CONFIG_MAP: marker,
    kinds.CORE_SERVICE: applied,
    kinds.POD: pod,
    kinds.CLAIM: claim,
    kinds.NODE: node,
}


def projected(kind: Kind, item: Object) -> Object:
    """What is kept of an object, with the type that the items of a list leave out."""
    kept = PROJECTIONS[kind](item)
    return {"apiVersion": kind.api_version, "kind": kind.name, **kept}


def _is_of_a_service(item: Object) -> bool:
    return names.SERVICE_LABEL in item["metadata"].get("labels", {})


def _wanted_of_containers(pod: Object) -> tuple[str, ...]:
    """Pods of a job end for good; those of a service are started again in place."""
    again = ("lastState", "restartCount", "ready") if _is_of_a_service(pod) else ()
    return ("name", "state", *again)


def _metadata(item: Object) -> Object:
    metadata = {key: item["metadata"][key] for key in _METADATA if key in item["metadata"]}
    notes = metadata.get("annotations", {})
    if _LAST_APPLIED in notes:
        metadata["annotations"] = {k: v for k, v in notes.items() if k != _LAST_APPLIED}
    return metadata


def _condition(condition: Mapping[str, Any]) -> Object:
    wanted = ("type", "status", "reason", "message")
    return {key: condition[key] for key in wanted if key in condition}
