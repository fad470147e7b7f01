"""One turn for one PanguService: look, decide, write the status, then act.

The rim around ``reconcile_service``, beside the one for jobs. Objects are applied server-side, as
the only one who says what is in them; what is in line is not written.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Cache, Key
from controller.cluster.kinds import CLAIM, SERVICE, Kind, kind_of
from controller.cluster.projections import projected
from controller.cluster.recorder import COMPONENT, Recorder
from controller.cluster.status_writer import write_status
from controller.cluster.surroundings import Troubles, claim_view
from controller.service.objects import Action, Apply, sealed
from controller.service.observe import ObservedService, ServiceView
from controller.service.reconcile import reconcile_service
from controller.service.transitions import service_transitions
from controller.status import with_condition
from k8s import names
from k8s.defaults import with_service_defaults
from k8s.placement import PodSettings
from k8s.render import render_service
from k8s.spec import PanguService, read_service
from k8s.status import ServiceStatus, service_from_dict
from pangu_core.errors import ConfigError

Object = dict[str, Any]
Version = tuple[str, int, str]


@dataclass(frozen=True)
class _Read:
    """A service's form, read once for each version of it."""

    version: Version
    view: ServiceView | ConfigError


class ServiceWorker:
    """Turns keys of PanguServices into what has to be done. Thread-safe: one key at a time each."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        *,
        recorder: Recorder,
        pod_defaults: PodSettings,
        installed: Callable[[], frozenset[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._cache, self._recorder = api, cache, recorder
        self._pod_defaults, self._installed, self._clock = pod_defaults, installed, clock
        self._troubles = Troubles(api)
        self._forms: dict[Key, _Read] = {}
        self._refusals: dict[Key, str] = {}  # why the last turn could not do all it wanted

    def work(self, key: Key) -> float | None:
        """Do what is due for a service; returns when to look again at the latest (unix seconds).

        Raises:
            ApiError: something could not be written now; to be tried again.
            ConfigError: an object of the same name is somebody else's.
        """
        objects = self._cache.under(key)
        item = next((o for o in objects if o["kind"] == SERVICE.name), None)
        if item is None or "deletionTimestamp" in item["metadata"]:
            self._forms.pop(key, None)
            self._refusals.pop(key, None)
            return None  # the garbage collector does the rest
        view, status = self._read(key, item), service_from_dict(item.get("status") or {})
        if isinstance(view, ConfigError):
            self._refuse(item, status, view)
            return None
        observed = ObservedService(
            view,
            status,
            tuple(o for o in objects if o is not item),
            claim=claim_view(self._cache.all(CLAIM), key[1], view.claim),
            installed=self._installed(),
            refusal=self._refusals.get(key, ""),
        )
        if observed.silent:
            observed = replace(observed, warnings=self._troubles.warnings(key[1]))
        decision = reconcile_service(observed, self._clock())
        self._write(item, status, decision.status)
        self._carry_out(key, decision.actions, view)
        return decision.requeue_at

    def _read(self, key: Key, item: Object) -> ServiceView | ConfigError:
        metadata = item["metadata"]
        model = metadata.get("annotations", {}).get(names.MODEL_VERSION_ANNOTATION, "")
        version = (metadata["uid"], metadata["generation"], model)
        known = self._forms.get(key)
        if known is None or known.version != version:
            known = self._forms[key] = _Read(version, self._view(item))
        return known.view

    def _view(self, item: Object) -> ServiceView | ConfigError:
        try:
            service = with_service_defaults(read_service(item), self._pod_defaults)
        except ConfigError as error:
            return error
        return service_view(service)

    def _refuse(self, item: Object, status: ServiceStatus, error: ConfigError) -> None:
        """Say why the form cannot be worked with; a later generation may mend it."""
        seen = replace(status, observed_generation=item["metadata"]["generation"])
        now = math.floor(self._clock())
        after = with_condition(
            seen, "Accepted", "False", reason="Invalid", message=str(error), now=now
        )
        self._write(item, status, after)

    def _write(self, item: Object, before: ServiceStatus, after: ServiceStatus) -> None:
        if after == before:
            return
        written = write_status(self._api, self._cache, item, after)
        for change in service_transitions(before, after):
            self._recorder.tell(written, change.reason, change.text, is_warning=change.is_warning)

    # Actions

    def _carry_out(self, key: Key, actions: Iterable[Action], view: ServiceView) -> None:
        try:
            for action in actions:
                if isinstance(action, Apply):
                    self._apply(action.manifest, key[1], view)
                else:
                    self._drop(dict(action.item))
        except (ApiError, ConfigError) as error:
            if isinstance(error, ConfigError) or error.is_refusal:
                self._refusals[key] = str(error)  # the next turn writes it into the status
            raise
        self._refusals.pop(key, None)

    def _apply(self, manifest: Any, namespace: str, view: ServiceView) -> None:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        if not self._is_ours(kind, namespace, name, view):
            raise ConfigError(
                f"{kind.name} {name}",
                seen="an object of that name which is not this service's",
                rule="must be free for the service",
                fix="delete or rename it; the service then goes on by itself",
            )
        stored = self._api.apply(kind, manifest, manager=COMPONENT)
        self._cache.put(kind, projected(kind, stored))

    def _is_ours(self, kind: Kind, namespace: str, name: str, view: ServiceView) -> bool:
        """Whether an object is the service's own, or would be; applying takes over whatever is there."""
        try:
            found = self._api.get(kind, namespace, name)
        except ApiError as error:
            if error.is_missing:
                return True
            raise
        return bool(found["metadata"].get("labels", {}).get(names.UID_LABEL) == view.uid)

    def _drop(self, item: Object) -> None:
        kind, metadata = kind_of(item), item["metadata"]
        self._api.delete(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        self._cache.remove(kind, item)


def service_view(service: PanguService) -> ServiceView:
    """The view of a checked service of a cluster, its manifests sealed."""
    spec, namespace = service.spec, service.metadata.namespace or ""
    selector = names.service_selector(service.name)
    return ServiceView(
        name=service.name,
        uid=service.uid,
        wanted=tuple(sealed(manifest) for manifest in render_service(service)),
        generation=service.metadata.generation or 1,
        replicas=spec.replicas,
        selector=",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        address=names.service_address(service.name, namespace),
        claim=spec.workspace.claim_name or "",
        # A new pod runs beside the old one, and one pod is enough for that.
        needs_many=names.HOST_LABEL not in spec.pods.node_selector,
    )
