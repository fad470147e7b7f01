"""What the command line says of services, and does to them."""

from typing import Any, Final

from controller.cluster.api import Api
from controller.cluster.kinds import SERVICE
from k8s.status import service_from_dict

Object = dict[str, Any]
SERVICE_COLUMNS: Final = ("SERVICE", "READY", "STATE", "MODEL", "ADDRESS")


def scaled(api: Api, item: Object, replicas: int) -> str:
    """Set a service's number of pods; says what that means.

    Raises:
        ApiError: the server refused.
    """
    name = item["metadata"]["name"]
    api.patch(SERVICE, api.namespace, name, {"spec": {"replicas": replicas}}, part="scale")
    note = "; its autoscaler goes on from there" if item["spec"].get("autoscale") else ""
    return f"PanguService {name}: {replicas} pods{note}"


def service_row(item: Object) -> tuple[str, ...]:
    """The cells of a service's line."""
    found = service_from_dict(item.get("status") or {})
    return (
        item["metadata"]["name"],
        f"{found.ready_replicas}/{item['spec'].get('replicas', 1)}",
        _state(item),
        item["spec"]["model"],
        found.address or "",
    )


def service_details(item: Object) -> str:
    """A service in full: where it answers, and the conditions that say something."""
    row = dict(zip(SERVICE_COLUMNS, service_row(item), strict=True))
    found = service_from_dict(item.get("status") or {})
    lines = [f"{row['SERVICE']}: {row['READY']} pods answer ({row['STATE']}), model {row['MODEL']}"]
    lines += [f"  address {row['ADDRESS']}"] if row["ADDRESS"] else []
    lines += [
        f"  {c.type}: {c.status} ({c.reason}): {c.message}" for c in found.conditions if c.message
    ]
    return "\n".join(lines)


def _state(item: Object) -> str:
    """The one word that matters most: why it cannot be, why no new pod comes, or that all is well."""
    found = service_from_dict(item.get("status") or {})
    for kind in ("Accepted", "Progressing", "Available"):
        condition = found.condition(kind)
        if condition and condition.status != "True":
            return condition.reason
    progress = found.condition("Progressing")
    return progress.reason if progress else "New"
