"""Writes the status of a PanguJob or PanguService, if nobody wrote the object since it was read."""

from typing import Any

from controller.cluster.api import Api
from controller.cluster.cache import Cache
from controller.cluster.kinds import kind_of
from controller.cluster.recorder import COMPONENT
from k8s.status import JobStatus, ServiceStatus, to_dict

Object = dict[str, Any]


def write_status(api: Api, cache: Cache, item: Object, status: JobStatus | ServiceStatus) -> Object:
    """Store a status; returns the object as it is now, which the cache has as well.

    Raises:
        ApiError: refused; a conflict if somebody wrote in between.
    """
    kind, metadata = kind_of(item), item["metadata"]
    body = {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "status": to_dict(status),
    }
    written = api.apply(kind, body, manager=COMPONENT, part="status")
    version = written["metadata"]["resourceVersion"]
    after = {
        **item,
        "metadata": {**metadata, "resourceVersion": version},
        "status": written["status"],
    }
    cache.put(kind, after)
    return after
