"""Carries out what reconcile decided. Each action may be done twice: done is done."""

from collections.abc import Iterable
from typing import Any

from controller.actions import (
    Action,
    Create,
    Delete,
    Kill,
    MakeClaim,
    Notify,
    Release,
    Remove,
    Scale,
    Serve,
)
from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Cache
from controller.cluster.kinds import CLAIM, JOB, POD, PYTORCH_JOB, SERVICE, Kind, kind_of
from controller.cluster.projections import projected
from controller.cluster.recorder import COMPONENT
from controller.cluster.surroundings import is_made_by
from controller.observe import is_of_the_store
from k8s import names
from k8s.render import render_claim, render_notice, render_stage
from k8s.serving import manifest_of, service_of
from k8s.spec import PanguJob, read_job
from pangu_core.errors import ConfigError

Object = dict[str, Any]


class Actuator:
    """Writes to the API server, and what it answers into the cache.

    Args:
        api: the API server.
        cache: sees every write at once, before its watch tells.
        store_image: image of the rendezvous store.
    """

    def __init__(self, api: Api, cache: Cache, *, store_image: str) -> None:
        self._api, self._cache, self._store_image = api, cache, store_image

    def carry_out(self, action: Action, job: PanguJob, item: Object, own: Iterable[Object]) -> None:
        """Carry out one action.

        Args:
            action: what to do.
            job: the job's form.
            item: the job's object.
            own: the objects that belong to it.

        Raises:
            ApiError: the server refused, or could not be reached.
            ConfigError: an object of the same name is somebody else's.
        """
        if isinstance(action, Create | Notify):
            for manifest in self._manifests(action, job):
                self._create(manifest, job)
        elif isinstance(action, Delete | Release):
            self._delete(action, own)
        elif isinstance(action, Scale):
            self._scale(action, job)
        else:
            self._carry_out_rare(action, job, item)

    def _carry_out_rare(self, action: Action, job: PanguJob, item: Object) -> None:
        if isinstance(action, Kill):
            self._api.delete(
                POD, job.metadata.namespace, action.pod, uid=action.uid, grace_seconds=0
            )
        elif isinstance(action, MakeClaim):
            for manifest in render_claim(job):
                self._make_claim(manifest, job.metadata.namespace)
        elif isinstance(action, Serve):
            self._serve(read_job(item), action)  # without the cluster's defaults for jobs
        elif isinstance(action, Remove):
            uid = item["metadata"]["uid"]
            self._api.delete(JOB, job.metadata.namespace, job.name, uid=uid)

    def _manifests(self, action: Create | Notify, job: PanguJob) -> list[Object]:
        image = self._store_image
        if isinstance(action, Create):
            return render_stage(job, action.stage, action.attempt, store_image=image)
        return render_notice(job, action.number, action.body, image=image)

    def _create(self, manifest: Object, job: PanguJob) -> None:
        kind = kind_of(manifest)
        stored = self._ensure(kind, manifest, job.metadata.namespace)
        if stored["metadata"].get("labels", {}).get(names.UID_LABEL) != job.uid:
            raise ConfigError(
                f"{kind.name} {manifest['metadata']['name']}",
                seen="an object of that name which is not this job's",
                rule="must be free for the job's attempt",
                fix="delete or rename it; the job then goes on by itself",
            )

    def _serve(self, job: PanguJob, action: Serve) -> None:
        service = service_of(job, action.version)
        assert service is not None
        namespace = job.metadata.namespace
        try:
            is_free = is_made_by(self._api.get(SERVICE, namespace, job.name), job.name)
        except ApiError as error:
            if not error.is_missing:
                raise
            is_free = True
        if not is_free:
            raise ConfigError(
                f"serve: PanguService {job.name}",
                seen="a service of that name that no job made",
                rule="must be free for the job's service",
                fix="delete it; the job then makes its own",
            )
        stored = self._api.apply(SERVICE, manifest_of(service), manager=COMPONENT)
        self._cache.put(SERVICE, projected(SERVICE, stored))

    def _make_claim(self, manifest: Object, namespace: str | None) -> None:
        try:
            stored = self._api.create(CLAIM, manifest, namespace, fieldManager=COMPONENT)
        except ApiError as error:
            if not error.is_conflict:  # somebody's claim of that name: its watch tells of it
                raise
        else:
            self._cache.put(CLAIM, projected(CLAIM, stored))

    def _ensure(self, kind: Kind, manifest: Object, namespace: str | None) -> Object:
        """Create an object unless it exists; returns it as it is stored."""
        try:
            stored = self._api.create(kind, manifest, namespace, fieldManager=COMPONENT)
        except ApiError as error:
            if not error.is_conflict:
                raise
            stored = self._api.get(kind, namespace, manifest["metadata"]["name"])
        self._cache.put(kind, projected(kind, stored))
        return stored

    def _delete(self, action: Delete | Release, own: Iterable[Object]) -> None:
        """Delete an attempt's objects but its store, or its store; pods go with their owners."""
        wanted = isinstance(action, Release)
        for item in own:
            is_meant = _attempt(item) == (action.stage, action.attempt)
            if is_meant and item["kind"] != POD.name and is_of_the_store(item) == wanted:
                self._delete_one(item, in_foreground=not wanted)

    def _delete_one(self, item: Object, *, in_foreground: bool) -> None:
        kind, metadata = kind_of(item), item["metadata"]
        if "deletionTimestamp" in metadata:
            return
        left = self._api.delete(
            kind,
            metadata["namespace"],
            metadata["name"],
            uid=metadata["uid"],
            propagation="Foreground" if in_foreground else "Background",
        )
        if left and left.get("kind") == kind.name and "deletionTimestamp" in left["metadata"]:
            self._cache.put(kind, projected(kind, left))
        else:
            self._cache.remove(kind, item)

    def _scale(self, action: Scale, job: PanguJob) -> None:
        name = names.stage_object(job.name, action.stage, action.attempt)
        body = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": action.replicas}}}}
        stored = self._api.patch(PYTORCH_JOB, job.metadata.namespace, name, body)
        self._cache.put(PYTORCH_JOB, projected(PYTORCH_JOB, stored))


def _attempt(item: Object) -> tuple[str, int] | None:
    labels = item["metadata"].get("labels", {})
    if names.STAGE_LABEL not in labels or names.ATTEMPT_LABEL not in labels:
        return None
    return labels[names.STAGE_LABEL], int(labels[names.ATTEMPT_LABEL])
