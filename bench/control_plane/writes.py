"""What the controller wrote, by the API server's own audit log."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

WRITES: Final = ("create", "update", "patch", "delete", "deletecollection")
# A courtesy that may be dropped, and the one thing that must go on.
NOT_COUNTED: Final = ("events", "leases")


def writes_of(
    events: Iterable[dict[str, Any]], user: str, *, since: str = "", until: str = "~"
) -> Counter[str]:
    """How often a user wrote which resource, such as ``patch pangujobs/status``.

    Args:
        events: of the audit log.
        user: whose.
        since: first moment that counts, as the log writes it.
        until: first moment that does not.
    """
    found: Counter[str] = Counter()
    for event in events:
        inside = since <= event["requestReceivedTimestamp"] < until
        if event["verb"] in WRITES and event["user"]["username"] == user and inside:
            place = event.get("objectRef", {})
            part = f"/{place['subresource']}" if "subresource" in place else ""
            found[f"{event['verb']} {place['resource']}{part}"] += 1
    return found


def counted(found: Counter[str]) -> int:
    """All writes but those of Events and Leases."""
    return sum(n for what, n in found.items() if what.split()[1] not in NOT_COUNTED)
