"""Decides what to do next for one service: pure and level-triggered.

What is there is brought in line with what the form asks for, whatever happened before. The rim
writes the status before it acts, and sees its own writes in the next observation.
"""

import math
from dataclasses import dataclass
from typing import Final

from controller.service.conditions import problem_of, with_service_conditions
from controller.service.objects import Action, actions_for
from controller.service.observe import ObservedService
from k8s.status import ServiceStatus

# Neither claims nor definitions of other kinds nor warnings tell us when they come.
LOOK_SECONDS: Final = 10


@dataclass(frozen=True)
class ServiceDecision:
    """What to do, what to say, and when to look again at the latest (unix seconds)."""

    actions: tuple[Action, ...]
    status: ServiceStatus
    requeue_at: float | None


def reconcile_service(observed: ObservedService, now: float) -> ServiceDecision:
    """Decide for one service; the same input always gives the same answer.

    A second call, after the actions are carried out and seen, has no action.
    """
    clock = math.floor(now)
    status = with_service_conditions(observed.status, observed, now=clock)
    problem = problem_of(observed)
    kind = observed.service.autoscaler
    lacks_kind = kind is not None and kind not in observed.installed
    waits = problem is not None or lacks_kind or bool(observed.silent)
    actions = () if problem else actions_for(observed)
    return ServiceDecision(actions, status, clock + LOOK_SECONDS if waits else None)
