"""Where and how pods run: a narrow part of a pod's own form, for job files.

Fields have Kubernetes' names and meaning. There is no hostPath and no second container.
"""

from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from k8s import names
from k8s.marks import keyed, marked
from pangu_core.config.base import Items, Positive, Settings
from pangu_core.loading import broken_rule

Name = Annotated[str, Field(min_length=1, max_length=253)]


def _as_text(value: Any) -> Any:
    """Whole quantities may be written as numbers, as the API server allows it."""
    if isinstance(value, float):
        raise broken_rule(
            "must be a whole number or text", f'write "{value:g}", or 500m for a half'
        )
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_reserved_variable(name: str) -> str:
    if name.startswith(names.RESERVED_VARIABLE_PREFIXES) or name == names.HOME_VARIABLE:
        raise broken_rule("is set by us (PET_*, PANGU_*, HOME)", "choose another name")
    return name


def _not_reserved_label(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        if key.partition("/")[0] in names.RESERVED_LABEL_DOMAINS or key in names.RESERVED_LABELS:
            raise broken_rule(f"{key} is set by us", "choose another key")
    return labels


def _not_reserved_volume(name: str) -> str:
    if name in names.MOUNTS:
        raise broken_rule("is the name of a volume of ours", "choose another name")
    return name


def _not_reserved_path(path: str) -> str:
    if not path.startswith("/") or path.rstrip("/") in {"", *names.MOUNTS.values()}:
        raise broken_rule("must be an absolute path that we do not use", "mount it elsewhere")
    return path


def _distinct(key: str) -> AfterValidator:
    """Refuses a list that has two items with the same key, as the API server does."""

    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen = set()
        for item in items:
            if (value := getattr(item, key)) in seen:
                raise broken_rule(f"has {value} twice", "keep one of them")
            seen.add(value)
        return items

    return AfterValidator(check)


# How many there may be of each: without a bound the API server takes a rule about the items for
# too costly.
FEW: Final = 32
MANY: Final = 128
T = TypeVar("T")
Few = Annotated[Items[T], Field(max_length=FEW)]
Quantity = Annotated[
    str,
    Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|[MGTPE]i?)?$", max_length=32),
    BeforeValidator(_as_text),
    marked("Quantity"),
]
LabelKey = Annotated[
    str,
    Field(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"),
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
Labels = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=FEW),
    AfterValidator(_not_reserved_label),
    marked("OwnLabels"),
]
Annotations = Annotated[
    dict[LabelKey, str],
    Field(max_length=FEW),
    AfterValidator(_not_reserved_label),
    marked("OwnLabels"),
]
VariableName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253),
    AfterValidator(_not_reserved_variable),
    marked("VariableName"),
]
VolumeName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63),
    AfterValidator(_not_reserved_volume),
    marked("VolumeName"),
]
MountPath = Annotated[
    str, Field(max_length=1024), AfterValidator(_not_reserved_path), marked("MountPath")
]


class Reference(Settings):
    """An object of the job's namespace."""

    name: Name


class KeyReference(Settings):
    """One key of a ConfigMap or Secret."""

    name: Name
    key: Name
    optional: bool | None = None


class Resources(Settings):
    """What a container asks for. Empty: nothing, not even a GPU."""

    requests: Annotated[dict[Name, Quantity], Field(max_length=FEW)] = Field(default_factory=dict)
    limits: Annotated[dict[Name, Quantity], Field(max_length=FEW)] = Field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """Whole GPUs among the devices: those of a resource that is called ``.../gpu``."""
        asked = {**self.requests, **self.limits}
        return sum(int(v) for k, v in asked.items() if k.endswith("/gpu") and v.isdecimal())

    def without_devices(self) -> "Resources":
        """The same without extended resources, whose names have a domain (GPUs, RDMA)."""
        return Resources(
            requests={k: v for k, v in self.requests.items() if "/" not in k},
            limits={k: v for k, v in self.limits.items() if "/" not in k},
        )


class Toleration(Settings):
    """A taint that pods bear."""

    key: str | None = None
    operator: Annotated[str, Field(pattern="^(Exists|Equal)$")] | None = None
    value: str | None = None
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] | None = None
    toleration_seconds: int | None = None


class VariableSource(Settings):
    """Where a variable's value comes from."""

    secret_key_ref: KeyReference | None = None
    config_map_key_ref: KeyReference | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "secretKeyRef", "configMapKeyRef")
        return self


class Variable(Settings):
    """An environment variable."""

    name: VariableName
    value: str | None = None
    value_from: VariableSource | None = None

    @model_validator(mode="after")
    def _value_or_source(self) -> Self:
        _exactly_one(self, "value", "valueFrom")
        return self


class VariablesSource(Settings):
    """All keys of a ConfigMap or Secret as variables."""

    prefix: str | None = None
    config_map_ref: Reference | None = None
    secret_ref: Reference | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "configMapRef", "secretRef")
        return self


class ConfigMapVolume(Settings):
    """Files from a ConfigMap."""

    name: Name
    optional: bool | None = None


class SecretVolume(Settings):
    """Files from a Secret."""

    secret_name: Name
    optional: bool | None = None


class ClaimVolume(Settings):
    """A persistent volume claim."""

    claim_name: Name
    read_only: bool | None = None


class EmptyVolume(Settings):
    """A folder that lives as long as the pod."""

    medium: Annotated[str, Field(pattern="^(Memory)?$")] | None = None
    size_limit: Quantity | None = None


class CsiVolume(Settings):
    """An inline volume of a CSI driver."""

    driver: Name
    read_only: bool | None = None
    fs_type: str | None = None
    volume_attributes: dict[str, str] | None = None
    node_publish_secret_ref: Reference | None = None


class Volume(Settings):
    """A further volume."""

    name: VolumeName
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    empty_dir: EmptyVolume | None = None
    csi: CsiVolume | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "configMap", "secret", "persistentVolumeClaim", "emptyDir", "csi")
        return self


class VolumeMount(Settings):
    """Where a further volume is mounted."""

    name: VolumeName
    mount_path: MountPath
    sub_path: str | None = None
    read_only: bool | None = None


class PodSettings(Settings):
    """How pods run. A field that a stage sets replaces the job-wide one as a whole."""

    resources: Resources | None = None
    """Requests and limits; default: nvidia.com/gpu = processesPerNode for train and the service,
    nothing for other stages. Given, it holds as it is: name the GPUs in it, or train on CPUs."""
    node_selector: Annotated[dict[str, str], Field(max_length=FEW)] = Field(default_factory=dict)
    """Labels a node must have."""
    tolerations: Few[Toleration] = ()
    """Taints to bear, beside not-ready and unreachable for 30 seconds."""
    affinity: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Kubernetes' affinity, passed on as it is."""
    topology: LabelKey | None = None
    """Node label, such as a rack's, within which trainers are packed where possible."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
    scheduler_name: Name | None = None
    """Scheduler that places the pods."""
    runtime_class_name: Name | None = None
    """RuntimeClass, such as nvidia."""
    service_account_name: Name | None = None
    """Service account; its token is never mounted."""
    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] | None = None
    """When the image is pulled; default: Kubernetes' own."""
    image_pull_secrets: Few[Reference] = ()
    """Secrets for the registry."""
    env: Annotated[Items[Variable], Field(max_length=MANY), _distinct("name"), keyed("name")] = ()
    """Further environment variables."""
    env_from: Few[VariablesSource] = ()
    """Further environment variables from ConfigMaps and Secrets."""
    volumes: Annotated[Few[Volume], _distinct("name"), keyed("name")] = ()
    """Further volumes."""
    volume_mounts: Annotated[Few[VolumeMount], _distinct("mount_path"), keyed("mountPath")] = ()
    """Where they are mounted."""
    labels: Labels = Field(default_factory=dict)
    """Further labels of the pods."""
    annotations: Annotations = Field(default_factory=dict)
    """Further annotations of the pods."""
    shared_memory: Quantity = "8Gi"
    """Size limit of /dev/shm in training pods, a part of their memory."""
    grace_period: Annotated[Positive, Field(ge=10)] = 120
    """Seconds between SIGTERM and SIGKILL; a checkpoint must fit in."""

    def overridden_by(self, other: "PodSettings | None") -> "PodSettings":
        """These settings, with every field that ``other`` sets taken from there."""
        if other is None:
            return self
        return self.model_copy(update={k: getattr(other, k) for k in other.model_fields_set})


class PodsByStage(Settings):
    """What single stages do differently."""

    fetch: PodSettings | None = None
    convert: PodSettings | None = None
    split: PodSettings | None = None
    preprocess: PodSettings | None = None
    train: PodSettings | None = None
    merge: PodSettings | None = None
    export: PodSettings | None = None


# Pods leave a node that went away after 30 s; Kubernetes' own default is 5 minutes.
LOST_NODE_TOLERATIONS: Final = tuple(
    Toleration(
        key=f"node.kubernetes.io/{state}",
        operator="Exists",
        effect="NoExecute",
        toleration_seconds=30,
    )
    for state in ("not-ready", "unreachable")
)


def _exactly_one(settings: Settings, *keys: str) -> None:
    given = [key for key in keys if key in settings.dump()]
    if len(given) != 1:
        raise broken_rule(f"must have exactly one of {', '.join(keys)}", "keep one of them")
