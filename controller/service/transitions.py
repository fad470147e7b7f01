"""What changed between two statuses of a service, a sentence for people each: its events. Pure."""

from controller.transitions import Change
from k8s.status import ServiceStatus


def service_transitions(before: ServiceStatus, after: ServiceStatus) -> tuple[Change, ...]:
    """Every change worth an event: it answers or does not, and each new reason why not."""
    changes = []
    was, now = before.condition("Available"), after.condition("Available")
    if now and (was.status if was else "False") != now.status:
        is_up = now.status == "True"
        text = f"answers at {after.address}" if is_up else "no pod answers any more"
        changes.append(Change("Available" if is_up else "Unavailable", text, is_warning=not is_up))
    for kind in ("Accepted", "Progressing", "Autoscaled"):
        was, now = before.condition(kind), after.condition(kind)
        is_news = now and (was is None or was.reason != now.reason)
        if now and is_news and now.status == "False" and now.message:
            changes.append(Change(now.reason, now.message, is_warning=True))
    return tuple(changes)
