"""Counts and metav1 conditions of a service, derived from what is seen. Pure."""

from dataclasses import replace
from typing import Final

from controller.conditions import MESSAGE_LIMIT, Finding
from controller.observe import Waiting
from controller.service.objects import is_rolled_out
from controller.service.observe import Object, ObservedService, trouble_of
from controller.status import with_condition
from controller.workspace_claim import claim_problem
from k8s.status import ServiceStatus
from pangu_core.errors import shorten

_NOT_INSTALLED: Final = {
    "HorizontalPodAutoscaler": "the controller may not make HorizontalPodAutoscalers; helm upgrade "
    "--set watch.autoscalers=true",
    "ScaledObject": "no ScaledObject can be made: KEDA is not installed, or the chart's "
    "watch.autoscalers is off",
}
# A warning that is over once a pod was placed.
_OF_BEFORE: Final = "FailedScheduling"
# The condition that says whether an autoscaler works.
_WORKS: Final = {"HorizontalPodAutoscaler": "ScalingActive", "ScaledObject": "Ready"}


def with_service_conditions(
    status: ServiceStatus, observed: ObservedService, *, now: int
) -> ServiceStatus:
    """The status with counts and conditions that say what is seen.

    Args:
        status: as it was.
        observed: one moment.
        now: unix seconds.
    """
    service = observed.service
    counts = (observed.deployment or {}).get("status", {})
    status = replace(
        status,
        observed_generation=service.generation,
        replicas=counts.get("replicas", 0),
        ready_replicas=counts.get("readyReplicas", 0),
        updated_replicas=counts.get("updatedReplicas", 0),
        selector=service.selector,
        address=service.address,
    )
    findings: dict[str, Finding] = {
        "Accepted": _accepted(observed),
        "Available": _available(status, observed),
        "Progressing": _progressing(status, observed),
        "Autoscaled": _autoscaled(observed),
    }
    for kind, (truth, reason, message) in findings.items():
        status = with_condition(status, kind, truth, reason=reason, message=message, now=now)
    return status


def problem_of(observed: ObservedService) -> Waiting | None:
    """Why nothing can be applied now."""
    service = observed.service
    if observed.strangers:
        item = observed.strangers[0]
        what = f"{item['kind']} {item['metadata']['name']}"
        return Waiting(
            "NameTaken",
            f"{what} belongs to an earlier service of this name; this one waits until it is gone",
        )
    if not service.claim:
        return None
    return claim_problem(service.claim, observed.claim, needs_many=service.needs_many)


def _accepted(observed: ObservedService) -> Finding:
    problem = problem_of(observed)
    if problem:
        return "False", problem.reason, problem.message
    if observed.refusal:
        return "False", "Refused", shorten(observed.refusal, MESSAGE_LIMIT)
    return "True", "Valid", ""


def _available(status: ServiceStatus, observed: ObservedService) -> Finding:
    if status.ready_replicas:
        return "True", "Answering", ""
    if observed.service.replicas == 0:
        return "False", "NoReplicas", ""
    return "False", "NotReady", "no pod answers"


def _progressing(status: ServiceStatus, observed: ObservedService) -> Finding:
    deployment = observed.deployment
    if deployment is None:
        return "False", "NotCreated", ""
    trouble = _of_pods(observed) or _of_deployment(deployment)
    if trouble:
        return "False", trouble.reason, shorten(trouble.message, MESSAGE_LIMIT)
    if is_rolled_out(observed):
        return "True", "UpToDate", ""
    wanted = observed.service.replicas
    if status.updated_replicas == status.replicas == wanted:
        return "True", "Starting", f"{status.ready_replicas} of {wanted} pods answer"
    return "True", "RollingOut", f"{status.updated_replicas} of {wanted} pods are up to date"


def _of_pods(observed: ObservedService) -> Waiting | None:
    """What keeps the youngest pods from answering."""
    found = [(pod, why) for pod in observed.pods if (why := _why(pod, observed))]
    if not found:
        return None
    pod, why = found[0]
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Waiting(why.reason, f"pod {pod['metadata']['name']}{others}: {why.message}")


def _why(pod: Object, observed: ObservedService) -> Waiting | None:
    """What keeps one pod from answering."""
    if pod not in observed.silent:
        return trouble_of(pod)
    warning = observed.warnings.get(pod["metadata"]["uid"])
    return None if warning is None or warning.reason == _OF_BEFORE else warning


def _of_deployment(deployment: Object) -> Waiting | None:
    """Why pods are not made (a quota, a policy), or are made and never answer."""
    conditions = deployment.get("status", {}).get("conditions", ())
    for kind, bad in (("ReplicaFailure", "True"), ("Progressing", "False")):
        for each in conditions:
            if (each["type"], each["status"]) == (kind, bad):
                return Waiting(each.get("reason", kind), each.get("message", ""))
    return None


def _autoscaled(observed: ObservedService) -> Finding:
    kind = observed.service.autoscaler
    if kind is None:
        return "False", "NotAsked", ""
    if kind not in observed.installed:
        return "False", "NotInstalled", _NOT_INSTALLED[kind]
    found = observed.found(kind, observed.service.name)
    conditions = found.get("status", {}).get("conditions", ()) if found else ()
    for each in conditions or ():
        if each["type"] == _WORKS[kind] and each["status"] != "True":
            message = shorten(each.get("message", ""), MESSAGE_LIMIT)
            return "False", each.get("reason", "NotActive"), message
    return ("True", "Scaling", "") if found else ("False", "NotCreated", "")
