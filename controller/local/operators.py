"""What the cluster's own controllers would do with a Job, a PyTorchJob or a Deployment. Pure.

The PyTorchJob follows the training operator 1.9.4 (restart policy ExitCode, elastic mode): exits
of 128 and above replace the pod, others fail the job, the first pod that ends well makes the
whole job succeed; surplus pods are stopped, and count like the others while they end. A Job's lost
pod is replaced at once; in a cluster the Job controller waits 10 s first, and twice as long each
time. The tests of ``tests/cluster`` hold all this against the real ones.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from controller.observe import REPLICA_INDEX

Object = dict[str, Any]
FIRST_REPLACING_CODE: Final = 128
OPERATOR_LABELS: Final = {"training.kubeflow.org/operator-name": "pytorchjob-controller"}


@dataclass(frozen=True)
class Ruling:
    """Changes to make."""

    create: tuple[Object, ...] = ()  # pods, without uid
    remove: tuple[str, ...] = ()  # names of ended pods
    stop: tuple[str, ...] = ()  # names of pods to end
    condition: Object | None = None  # of the object itself


def rule(owner: Object, pods: Iterable[Object]) -> Ruling:
    """What the controller of an object that is not being deleted does next.

    Args:
        owner: the object; kinds without pods get nothing to do.
        pods: its pods.
    """
    rules = {"Job": _rule_job, "PyTorchJob": _rule_pytorch_job, "Deployment": _rule_deployment}
    kind = rules.get(owner["kind"])
    return kind(owner, list(pods)) if kind else Ruling()


def num_processes(owner: Mapping[str, Any]) -> int:
    """How many training or other busy processes an object's pods run together."""
    if owner["kind"] != "PyTorchJob":
        return 1
    per_pod = str(owner["spec"].get("nprocPerNode", "1"))
    replicas: int = _worker(owner)["replicas"]
    return replicas * (int(per_pod) if per_pod.isdecimal() else 1)


def exit_code(pod: Mapping[str, Any]) -> int | None:
    """The exit code of a pod that ended."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        code: int | None = container["state"].get("terminated", {}).get("exitCode")
        return code
    return None


def is_finished(owner: Mapping[str, Any]) -> bool:
    """Whether an object's own condition says that it has ended."""
    kinds = {c["type"] for c in owner.get("status", {}).get("conditions", ())}
    return bool(kinds & {"Complete", "Succeeded", "Failed"})


def _rule_deployment(owner: Object, pods: list[Object]) -> Ruling:
    if pods:
        return Ruling()
    return Ruling(create=(_new_pod(owner, f"{_name(owner)}-0", owner["spec"]["template"]),))


def _rule_job(owner: Object, pods: list[Object]) -> Ruling:
    if is_finished(owner):
        return Ruling()
    template = owner["spec"]["template"]
    count = owner.get("status", {}).get("created", 0)
    if not pods:
        return Ruling(create=(_new_pod(owner, f"{_name(owner)}-{count}", template),))
    code = exit_code(pods[0])
    if code is None:
        return Ruling()
    if code == 0:
        return Ruling(condition=_condition("Complete", "CompletionsReached"))
    if code < FIRST_REPLACING_CODE:
        return Ruling(condition=_failure(pods[0], code))
    return Ruling(
        remove=(_name(pods[0]),), create=(_new_pod(owner, f"{_name(owner)}-{count}", template),)
    )


def _rule_pytorch_job(owner: Object, pods: list[Object]) -> Ruling:
    codes = {_name(pod): exit_code(pod) for pod in pods}
    active = tuple(name for name, code in codes.items() if code is None)
    if is_finished(owner):  # cleanPodPolicy: Running
        return Ruling(stop=active)
    lost = tuple(name for name, code in codes.items() if code and code >= FIRST_REPLACING_CODE)
    for pod in pods:
        code = exit_code(pod)
        if code and code < FIRST_REPLACING_CODE:  # outdoes a success that is seen with it
            return Ruling(condition=_failure(pod, code), remove=lost, stop=active)
    if 0 in codes.values():
        succeeded = _condition("Succeeded", "PyTorchJobSucceeded")
        return Ruling(condition=succeeded, remove=lost, stop=active)
    wanted = [f"{_name(owner)}-worker-{i}" for i in range(_worker(owner)["replicas"])]
    return Ruling(
        create=tuple(_new_worker(owner, i) for i, name in enumerate(wanted) if name not in active),
        remove=lost,
        stop=tuple(name for name in active if name not in wanted),
    )


def _new_worker(owner: Object, index: int) -> Object:
    worker = _worker(owner)
    pod = _new_pod(owner, f"{_name(owner)}-worker-{index}", worker["template"])
    pod["metadata"]["labels"] |= OPERATOR_LABELS | {
        "training.kubeflow.org/job-name": _name(owner),
        "training.kubeflow.org/replica-type": "worker",
        REPLICA_INDEX: str(index),
        **({"training.kubeflow.org/job-role": "master"} if index == 0 else {}),
    }
    pod["spec"]["restartPolicy"] = "Never"  # what ExitCode means for the kubelet
    for container in pod["spec"]["containers"]:
        container.setdefault("env", []).extend(_elastic_environment(owner["spec"]))
    return pod


def _elastic_environment(spec: Mapping[str, Any]) -> list[Object]:
    """The variables that the operator appends to each container in elastic mode."""
    policy = spec["elasticPolicy"]
    replicas = spec["pytorchReplicaSpecs"]["Worker"]["replicas"]
    low = policy.get("minReplicas", policy.get("maxReplicas", replicas))
    high = policy.get("maxReplicas", policy.get("minReplicas", replicas))
    values = {
        "PYTHONUNBUFFERED": "1",
        "PET_NPROC_PER_NODE": spec.get("nprocPerNode", "auto"),
        "PET_RDZV_ENDPOINT": f"{policy['rdzvHost']}:{policy['rdzvPort']}",
        "PET_RDZV_BACKEND": policy.get("rdzvBackend", "c10d"),
        "PET_NNODES": f"{low}:{high}",
        "PET_MAX_RESTARTS": policy.get("maxRestarts"),
        "PET_RDZV_ID": policy.get("rdzvId"),
    }
    return [{"name": k, "value": str(v)} for k, v in values.items() if v is not None]


def _new_pod(owner: Object, name: str, template: Mapping[str, Any]) -> Object:
    copy = deepcopy(dict(template))
    metadata = copy.get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": dict(metadata.get("labels", {})),
            "annotations": dict(metadata.get("annotations", {})),
            "ownerReferences": [{"kind": owner["kind"], "name": _name(owner), "controller": True}],
        },
        "spec": copy["spec"],
        "status": {"phase": "Pending"},
    }


def _failure(pod: Object, code: int) -> Object:
    return _condition("Failed", "PodFailed", f"pod {_name(pod)} exited with {code}")


def _condition(kind: str, reason: str, message: str = "") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def _worker(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    worker: Mapping[str, Any] = owner["spec"]["pytorchReplicaSpecs"]["Worker"]
    return worker


def _name(item: Mapping[str, Any]) -> str:
    name: str = item["metadata"]["name"]
    return name
