"""Which replica works: one Lease object, held, renewed and released.

The holder renews every 2 s. A replica that waits takes the Lease over when it has not seen it change
for 15 s of its own clock (clocks of machines are never compared). The holder that could not renew for
10 s gives up by itself: its workers have stopped 5 s before anybody else may start.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import LEASE

Object = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds, as client-go's defaults."""

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


@dataclass(frozen=True)
class Sighting:
    """The Lease as last seen, and since when it looks like that."""

    version: str
    since: float


DEFAULT_TIMING: Final = Timing()


class LeaseLoop:
    """Gets the Lease, keeps it, gives it back.

    Args:
        api: the API server.
        namespace: where the Lease lies.
        name: of the Lease.
        identity: of this replica, unique.
        timing: tests shorten it.
    """

    def __init__(
        self, api: Api, *, namespace: str, name: str, identity: str, timing: Timing = DEFAULT_TIMING
    ) -> None:
        self._api, self._namespace, self._name = api, namespace, name
        self._identity, self._timing = identity, timing
        self._stopping = threading.Event()
        self._seen: Sighting | None = None

    def stop(self) -> None:
        """End ``hold``: the Lease is given back if it is held."""
        self._stopping.set()

    def hold(self, on_held: Callable[[], None], on_lost: Callable[[], None]) -> bool:
        """Wait for the Lease, call ``on_held``, renew until stopped or lost, call ``on_lost``.

        Returns True when it was stopped, False when the Lease was lost. When ``on_lost`` returns,
        nothing may work any more.
        """
        while not self._try_to_get():
            if self._stopping.wait(self._timing.retry):
                return True
        logger.info("%s holds the lease", self._identity)
        on_held()
        was_stopped = self._renew()
        on_lost()
        if was_stopped:
            self._release()
        return was_stopped

    def _renew(self) -> bool:
        renewed_at = time.monotonic()
        while not self._stopping.wait(self._timing.retry):
            asked_at = time.monotonic()
            if self._try_to_get():
                renewed_at = asked_at
            elif time.monotonic() - renewed_at > self._timing.deadline - self._timing.retry:
                logger.error("the lease could not be renewed for %.0f s", self._timing.deadline)
                return False
        return True

    def _try_to_get(self) -> bool:
        """Write the Lease as ours if that is allowed; whether it is ours now."""
        try:
            lease = self._api.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            return error.is_missing and self._write(None)
        metadata, spec = lease["metadata"], lease.get("spec", {})
        now = time.monotonic()
        if self._seen is None or self._seen.version != metadata["resourceVersion"]:
            self._seen = Sighting(metadata["resourceVersion"], now)
        holder = spec.get("holderIdentity") or ""
        is_free = not holder or now - self._seen.since > self._timing.duration
        if holder != self._identity and not is_free:
            return False
        return self._write(lease)

    def _write(self, lease: Object | None) -> bool:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease.get("spec", {}) if lease else {}
        is_renewal = before.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": before["acquireTime"] if is_renewal else stamp,
            "renewTime": stamp,
            "leaseTransitions": before.get("leaseTransitions", 0) + (not is_renewal),
        }
        return self._put(lease, spec)

    def _put(self, lease: Object | None, spec: Object) -> bool:
        metadata = (
            lease["metadata"] if lease else {"name": self._name, "namespace": self._namespace}
        )
        body = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata}
        body["spec"] = spec
        try:
            if lease is None:
                self._api.create(LEASE, body, self._namespace)
            else:
                self._api.replace(LEASE, body)
        except ApiError as error:
            if not error.is_conflict:
                logger.warning("the lease cannot be written: %s", error)
            return False
        return True

    def _release(self) -> None:
        """Let another replica begin at once."""
        try:
            lease = self._api.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            logger.warning("the lease was not given back: %s", error)
            return
        if lease.get("spec", {}).get("holderIdentity") == self._identity:
            self._put(lease, {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1})
