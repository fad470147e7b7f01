"""The user's file: PanguJob and PanguService, read, checked and frozen.

Everything static is refused here, with the field, the value, the rule and what to do. What only a
cluster can know (does the claim exist?) is not.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from k8s import names, not_built
from k8s.blocks import (
    DataBlock,
    ExportBlock,
    LimitsBlock,
    ModelBlock,
    NotifyBlock,
    QueueBlock,
    RerunBlock,
    ServeBlock,
    SplitBlock,
    WorkspaceBlock,
    WorkspacePath,
    is_in_a_store,
)
from k8s.metadata import Metadata
from k8s.placement import PodsByStage, PodSettings, Resources
from pangu_core.config.base import Settings, divisors
from pangu_core.config.train import TrainSettings
from pangu_core.errors import ConfigError
from pangu_core.loading import apply_overrides, broken_rule, load, nearest, parse_yaml, read_yaml

_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class JobSpec(Settings):
    """What a PanguJob asks for."""

    image: Annotated[str, Field(min_length=1)]
    """Image with pangu_core, for all stages."""
    workspace: WorkspaceBlock
    """The volume that all stages share."""
    tokenizer: WorkspacePath | None = None
    """SentencePiece model in the workspace; default: the image's."""
    model: ModelBlock
    """Which network, and weights to start from."""
    data: DataBlock
    """Text to train on."""
    train: TrainSettings
    """How to train."""
    split: SplitBlock = SplitBlock()
    """Sharded weights on disk."""
    export: ExportBlock | None = None
    """Weights for another program, or elsewhere."""
    serve: ServeBlock | None = None
    """A service to create or update at the end."""
    resume_from: (
        Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)] | None
    ) = None
    """An earlier run to go on with: a job's name, whose folder runs/NAME/ then is this job's, or the
    uid of a deleted job of this name. That run may write there no more."""
    suspend: bool = False
    """Keep the job from running; pods save and end."""
    cancel: bool = False
    """End the job for good; pods save and end, and what is there stays."""
    rerun: RerunBlock | None = None
    """Run again from a stage, also when the job has ended."""
    queue: QueueBlock | None = None
    """Kueue."""
    limits: LimitsBlock = LimitsBlock()
    """When to give up."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Delete the object so long after its end; default: never."""
    pods: PodSettings = PodSettings()
    """How pods run."""
    pods_by_stage: PodsByStage = PodsByStage()
    """What single stages do differently."""
    notify: NotifyBlock | None = None
    """A call when the job ends."""

    def pods_for(self, stage: str) -> PodSettings:
        """How the pods of one stage run, what they ask for included.

        Devices are for training only: a stage that does not say otherwise gets the job-wide
        CPUs and memory, not the GPUs.
        """
        own: PodSettings | None = getattr(self.pods_by_stage, stage)
        merged = self.pods.overridden_by(own)
        if stage == names.TRAIN:
            gpus = {names.GPU_RESOURCE: str(self.train.nodes.processes_per_node)}
            default = Resources(requests=gpus, limits=gpus)
            resources = default if merged.resources is None else merged.resources
        elif own is not None and own.resources is not None:
            resources = own.resources
        else:
            resources = (merged.resources or Resources()).without_devices()
        return merged.model_copy(update={"resources": resources})

    def with_pods(self, pods: PodSettings) -> Self:
        """A copy with other job-wide settings of pods.

        Raises:
            ConfigError: a mount now names no volume.
        """
        changed = self.model_copy(update={"pods": pods})
        _check_mounts_of_stages(changed)
        return changed

    @property
    def spreads(self) -> bool:
        """Whether pods on several nodes may use the workspace at one time."""
        several = self.train.nodes.max > 1 or self.serve is not None
        return several and names.HOST_LABEL not in self.pods.node_selector

    @model_validator(mode="after")
    def _tensor_parallel_divides_the_heads(self) -> Self:
        sizes = self.model.sizes
        for path, ranks in (
            ("train.tensorParallel", self.train.tensor_parallel),
            ("split.tensorParallel", self.split.tensor_parallel),
            ("serve.tensorParallel", self.serve.tensor_parallel if self.serve else None),
        ):
            if sizes is not None and ranks is not None and sizes.num_heads % ranks:
                raise ConfigError(
                    path,
                    seen=ranks,
                    rule=f"must divide the number of attention heads ({sizes.num_heads})",
                    fix=f"choose one of {divisors(sizes.num_heads)}",
                )
        return self

    @model_validator(mode="after")
    def _sequences_fit_the_position_table(self) -> Self:
        sizes, length = self.model.sizes, self.train.sequence_length
        if sizes is not None and length is not None and length > sizes.sequence_length:
            raise ConfigError(
                "train.sequenceLength",
                seen=length,
                rule=f"must not exceed the position table ({sizes.sequence_length} rows)",
                fix=f"use at most {sizes.sequence_length}, or a model with a longer table",
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_split(self) -> Self:
        if self.split.always and self.model.from_ is None:
            raise ConfigError(
                "split.always",
                seen="true",
                rule="splits the weights that training starts from, and model.from names none",
                fix="add model.from, or remove split",
            )
        return self

    @model_validator(mode="after")
    def _all_pods_reach_the_workspace(self) -> Self:
        if self.workspace.access_mode == "ReadWriteOnce" and self.spreads:
            raise ConfigError(
                "workspace.accessMode",
                seen="ReadWriteOnce",
                rule="more than one pod uses the volume, and they may run on several nodes",
                fix=f"use ReadWriteMany, or pin pods.nodeSelector {names.HOST_LABEL} to one node",
            )
        return self

    @model_validator(mode="after")
    def _one_pod_fetches_everything(self) -> Self:
        model, data = self.model, self.data
        one, other = ((b.endpoint, b.secret_ref) for b in (model, data))
        if is_in_a_store(model.elsewhere) and is_in_a_store(data.elsewhere) and one != other:
            raise ConfigError(
                "data.endpoint, data.secretRef",
                seen="others than those of model",
                rule="one pod fetches both, with one endpoint and one Secret",
                fix="write the same for both, or copy one into the workspace",
            )
        return self

    @model_validator(mode="after")
    def _mounts_name_volumes(self) -> Self:
        _check_mounts_of_stages(self)
        return self


class ServiceSpec(ServeBlock):
    """What a PanguService asks for."""

    image: Annotated[str, Field(min_length=1)]
    """Image with pangu_core."""
    workspace: WorkspaceBlock
    """The volume that holds the model; mounted read-only."""
    model: WorkspacePath
    """A checkpoint folder in the workspace."""
    tokenizer: WorkspacePath | None = None
    """SentencePiece model in the workspace; default: the one in the checkpoint."""

    def with_pods(self, pods: PodSettings) -> Self:
        """A copy with other settings of pods.

        Raises:
            ConfigError: a mount now names no volume.
        """
        _check_mounts(pods, "the service")
        return self.model_copy(update={"pods": pods})

    @field_validator("workspace")
    @classmethod
    def _an_existing_claim(cls, workspace: WorkspaceBlock) -> WorkspaceBlock:
        if workspace.claim_name is None:
            raise broken_rule("must name an existing claim: a model is in it", "use claimName")
        return workspace

    @model_validator(mode="after")
    def _mounts_name_volumes(self) -> Self:
        _check_mounts(self.pods, "the service")
        return self


class PanguJob(Settings):
    """A run from old weights to a tuned model."""

    api_version: Literal["pangu-finetune.io/v1alpha1"] = "pangu-finetune.io/v1alpha1"
    kind: Literal["PanguJob"] = "PanguJob"
    metadata: Metadata
    spec: JobSpec

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def run_name(self) -> str:
        """Outputs go to runs/<run_name>/."""
        earlier = self.spec.resume_from
        return self.name if earlier is None or _UID.fullmatch(earlier) else earlier

    @property
    def uid(self) -> str:
        """The object's uid; off a cluster, one that follows from its name."""
        return self.metadata.uid or _uid_of(self.kind, self.metadata)


class PanguService(Settings):
    """A generation service over a checkpoint on a volume."""

    api_version: Literal["pangu-finetune.io/v1alpha1"] = "pangu-finetune.io/v1alpha1"
    kind: Literal["PanguService"] = "PanguService"
    metadata: Metadata
    spec: ServiceSpec

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def uid(self) -> str:
        """The object's uid; off a cluster, one that follows from its name."""
        return self.metadata.uid or _uid_of(self.kind, self.metadata)


def parse(source: Path | str, overrides: Iterable[str] = ()) -> list[PanguJob | PanguService]:
    """Read the objects of a job file.

    Args:
        source: a file, or YAML text.
        overrides: ``a.b=c`` each, applied to the spec of the first object (``metadata.name=x``
            to its metadata).

    Raises:
        ConfigError: the first thing that is wrong, or asks for what is not built yet.
    """
    where = str(source) if isinstance(source, Path) else "text"
    documents = read_yaml(source) if isinstance(source, Path) else parse_yaml(source, where)
    if not documents:
        raise ConfigError(where, seen="nothing", rule="must hold an object", fix="write a job")
    documents[0] = _overridden(documents[0], overrides)
    return [_read(document, where) for document in documents]


def parse_job(source: Path | str, overrides: Iterable[str] = ()) -> PanguJob:
    """Read the one PanguJob of a file.

    Raises:
        ConfigError: what ``parse`` refuses, or a file with no job or several.
    """
    objects = parse(source, overrides)
    jobs = [each for each in objects if isinstance(each, PanguJob)]
    if len(jobs) != 1:
        raise ConfigError(
            str(source) if isinstance(source, Path) else "text",
            seen=f"{len(jobs)} PanguJobs",
            rule="must hold exactly one PanguJob",
            fix="give each job a file of its own",
        )
    return jobs[0]


def read_job(document: Mapping[str, Any]) -> PanguJob:
    """Read a PanguJob as the API server gives it.

    Raises:
        ConfigError: the first thing that is wrong, or asks for what is not built yet.
    """
    found = _read(document, "object")
    assert isinstance(found, PanguJob), found.kind
    return found


def read_service(document: Mapping[str, Any]) -> PanguService:
    """Read a PanguService as the API server gives it.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    found = _read(document, "object")
    assert isinstance(found, PanguService), found.kind
    return found


def _read(document: Any, where: str) -> PanguJob | PanguService:
    """One object; its spec is loaded by itself, so that messages say ``train.steps``."""
    if not isinstance(document, Mapping):
        raise ConfigError(
            where, seen=document, rule="must be a mapping", fix="start with apiVersion and kind"
        )
    _expect("apiVersion", document.get("apiVersion"), (names.API_VERSION,))
    kind = _expect("kind", document.get("kind"), (names.JOB_KIND, names.SERVICE_KIND))
    for key in document:
        if key not in ("apiVersion", "kind", "metadata", "spec", "status"):
            fix = nearest(str(key), ("metadata", "spec"))
            raise ConfigError(str(key), seen=document[key], rule="is not a known key", fix=fix)
    body = document.get("spec") or {}
    metadata = load(Metadata, document.get("metadata") or {}, "metadata")
    if kind == names.SERVICE_KIND:
        served = load(ServiceSpec, body)
        not_built.refuse(served, not_built.OF_SERVICES)
        return PanguService(metadata=metadata, spec=served)
    spec = load(JobSpec, body)
    not_built.refuse(spec)
    return PanguJob(metadata=metadata, spec=spec)


def _expect(field: str, seen: Any, allowed: tuple[str, ...]) -> str:
    if seen not in allowed:
        raise ConfigError(
            field,
            seen="nothing" if seen is None else seen,
            rule=f"must be {' or '.join(allowed)}",
            fix=nearest(str(seen), allowed),
        )
    return str(seen)


def _overridden(document: Any, overrides: Iterable[str]) -> Any:
    """A copy with each override applied, to the spec unless it begins with ``metadata.``."""
    if not isinstance(document, Mapping):
        return document
    result = dict(document)
    for override in overrides:
        part = "metadata" if override.startswith("metadata.") else "spec"
        result[part] = apply_overrides(result.get(part) or {}, [override.removeprefix(f"{part}.")])
    return result


def _check_mounts_of_stages(spec: JobSpec) -> None:
    for stage in names.STAGES:
        _check_mounts(spec.pods_for(stage), f"stage {stage}")


def _check_mounts(pods: PodSettings, whose: str) -> None:
    volumes = {volume.name for volume in pods.volumes}
    for mount in pods.volume_mounts:
        if mount.name not in volumes:
            raise ConfigError(
                "pods.volumeMounts",
                seen=mount.name,
                rule=f"must name one of the volumes of {whose}",
                fix="add the volume, or mend the name",
            )


def _uid_of(kind: str, metadata: Metadata) -> str:
    path = f"{names.GROUP}/{kind}/{metadata.namespace or 'default'}/{metadata.name}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))
