"""The blocks that job and service files are made of. ``k8s.spec`` puts them together."""

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from k8s.marks import marked, unfilled
from k8s.placement import Few, Name, PodSettings, Quantity, Reference
from pangu_core.config.base import Positive, Settings, Size
from pangu_core.config.model import PRESETS, Activation, ModelConfig
from pangu_core.config.stages import DataSettings
from pangu_core.errors import ConfigError
from pangu_core.loading import broken_rule
from pangu_core.remote.address import is_remote, is_whole, scheme

REMOTE_SCHEMES: Final = ("https", "s3", "pvc")
# Has credentials and an endpoint.
STORE_SCHEME: Final = "s3"


def _inside_the_workspace(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or is_remote(path):
        raise broken_rule(
            "must be relative to the workspace and stay inside it",
            "copy the data into the workspace and name it from there",
        )
    return path


def _readable_source(source: str) -> str:
    if not is_remote(source):
        return _inside_the_workspace(source)
    if scheme(source) not in REMOTE_SCHEMES:
        raise broken_rule(
            "must be a path in the workspace, or start with https://, s3:// or pvc://",
            "copy the data into the workspace and name it from there",
        )
    if not is_whole(source):
        raise broken_rule(
            "must name a host, bucket or claim and something in it, without ..",
            "write for example s3://bucket/folder",
        )
    return source


def is_in_a_store(source: object) -> bool:
    """Whether a source is read or written with credentials, at an endpoint."""
    return isinstance(source, str) and source.startswith(f"{STORE_SCHEME}://")


PATH_LIMIT: Final = 1024
WorkspacePath = Annotated[
    str,
    Field(max_length=PATH_LIMIT),
    AfterValidator(_inside_the_workspace),
    marked("WorkspacePath"),
]
Source = Annotated[
    str, Field(max_length=PATH_LIMIT), AfterValidator(_readable_source), marked("Source")
]


class SecretName(Settings):
    """A Secret of the job's namespace."""

    secret_name: Name
    """Its name."""


class Remote(Settings):
    """What a block needs to reach another store."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = None
    """Address of an S3 service other than Amazon's, for s3://."""
    secret_ref: Reference | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN, for s3://.
    `pangu run` takes them from its own environment."""

    @property
    def elsewhere(self) -> str | None:
        """The address that the block names, if it names one."""
        return None

    @model_validator(mode="after")
    def _says_how_to_reach_a_store(self) -> Self:
        if (self.endpoint or self.secret_ref) and not is_in_a_store(self.elsewhere):
            raise broken_rule(
                "has endpoint or secretRef, which are for an address that begins with s3://",
                "remove them",
            )
        return self


class WorkspaceBlock(Settings):
    """The volume that all stages share."""

    claim_name: Name | None = None
    """An existing claim."""
    size: Quantity | None = None
    """Size of a claim to make; it outlives the job."""
    storage_class_name: Name | None = None
    """Storage class of a claim to make; default: the cluster's."""
    access_mode: Annotated[
        Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"], unfilled()
    ] = "ReadWriteMany"
    """Access mode of a claim to make."""

    @model_validator(mode="after")
    def _named_or_made(self) -> Self:
        if (self.claim_name is None) == (self.size is None):
            raise broken_rule("must have exactly one of claimName, size", "keep one of them")
        made_only = {"storage_class_name", "access_mode"} & self.model_fields_set
        if self.claim_name is not None and made_only:
            raise broken_rule(
                "has storageClassName or accessMode, which are for a claim to make",
                "remove them, or write size instead of claimName",
            )
        if self.access_mode == "ReadWriteOncePod":
            raise broken_rule(
                "accessMode must let more than one pod use the volume",
                "use ReadWriteMany, or ReadWriteOnce for one node",
            )
        return self


class ModelBlock(Remote):
    """Which network: a preset or sizes, and weights to start from."""

    preset: Literal["tiny", "350M", "2.6B", "13B"] | None = None
    """Published sizes by name."""
    from_: Annotated[Source | None, Field(alias="from")] = None
    """Weights to start from: a path in the workspace, https:// (a file), s3:// (a file or folder)
    or pvc://claim/path."""
    num_layers: Size | None = None
    """Transformer layers, the query layer included."""
    hidden_size: Size | None = None
    """Width of the residual stream."""
    num_heads: Size | None = None
    """Attention heads; must divide hiddenSize."""
    vocab_size: Size | None = None
    """Rows of the word table; default 40000."""
    sequence_length: Size | None = None
    """Rows of the position table; default 1024."""
    layer_norm_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Default 1e-5."""
    activation: Activation | None = None
    """Default gelu_tanh."""
    init_std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of fresh weights; default 0.02."""

    @property
    def elsewhere(self) -> str | None:
        """The address that the block names, if it names one."""
        return self.from_ if self.from_ and is_remote(self.from_) else None

    @property
    def sizes(self) -> ModelConfig | None:
        """The network's sizes; None: those of the weights to start from."""
        given = {
            name: value
            for name in ModelConfig.model_fields
            if (value := getattr(self, name)) is not None
        }
        if self.preset is not None:
            return PRESETS[self.preset].model_copy(update=given)
        return ModelConfig(**given) if given else None

    @model_validator(mode="after")
    def _says_which_network(self) -> Self:
        required = ("num_layers", "hidden_size", "num_heads")
        sizes = (*required, "vocab_size", "sequence_length")
        given = {name for name in ModelConfig.model_fields if getattr(self, name) is not None}
        if self.preset is not None and given.intersection(sizes):
            raise broken_rule("must not have both a preset and sizes", "keep one of them")
        if self.preset is None and given and not given.issuperset(required):
            raise broken_rule(
                "needs numLayers, hiddenSize and numHeads together", "add the missing ones"
            )
        if self.preset is None and not given and self.from_ is None:
            raise broken_rule(
                "says nothing about the network",
                "add preset, from, or numLayers and the other sizes",
            )
        _ = self.sizes  # building them checks them
        return self


class WeightedInput(Settings):
    """One of several inputs, with its share."""

    path: Source
    """Glob of text files."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the samples, relative to the others'."""


class DataBlock(Remote, DataSettings):
    """Text to train on."""

    input: Source | Few[WeightedInput]
    """Glob of text files in the workspace, s3:// (a glob too), https:// (a file), pvc://, or a list
    with weights."""
    format: Literal["text", "jsonl", "chat", "tokens"] = "text"
    """text: documents separated by blank lines; jsonl: one JSON object a line; chat: messages;
    tokens: the token files of an earlier preprocessing, input being their prefix in the workspace."""
    json_key: str = "text"
    """Field of a JSON line that holds the document."""
    split_sentences: bool = False
    """One item per sentence rather than per document."""
    append_eod: bool = True
    """Append id 9 to every document, as pre-training did."""
    workers: Positive | None = None
    """Processes of the preprocessing; default: one per CPU."""
    validation: Source | None = None
    """Text for validation, instead of a part of the split."""
    template: WorkspacePath | None = None
    """Template that turns messages into text."""

    @property
    def elsewhere(self) -> str | None:
        """The address that the block names, if it names one."""
        return self.input if isinstance(self.input, str) and is_remote(self.input) else None

    @property
    def token_files(self) -> str | None:
        """Prefix of token files that are there already; None: they are made of text."""
        if self.format == "tokens" and isinstance(self.input, str):
            return self.input
        return None

    @model_validator(mode="after")
    def _names_files(self) -> Self:
        inputs = [self.input] if isinstance(self.input, str) else [i.path for i in self.input]
        for each in inputs:
            is_pattern = scheme(each) == "https" and "*" in each
            if each.endswith("/") or is_pattern:
                raise ConfigError(
                    "data.input",
                    seen=each,
                    rule="is a pattern, which the web does not know"
                    if is_pattern
                    else "is a folder",
                    fix="name one file" if is_pattern else "name its files, such as *.txt",
                )
        return self

    @property
    def settings(self) -> DataSettings:
        """The part that training reads."""
        return DataSettings(**{name: getattr(self, name) for name in DataSettings.model_fields})

    @model_validator(mode="after")
    def _token_files_are_in_the_workspace(self) -> Self:
        if self.format == "tokens" and (self.token_files is None or self.elsewhere):
            raise ConfigError(
                "data.input",
                seen=self.elsewhere or "a list",
                rule="must be one prefix in the workspace where data.format is tokens",
                fix="copy the .bin and .idx files into it and name them without the ending",
            )
        return self


class SplitBlock(Settings):
    """Sharded weights on disk; training reads any layout, so this is for other programs."""

    always: bool = False
    """Write the weights that training starts from as tensor-parallel shards."""
    tensor_parallel: Positive | None = None
    """Shards to write; default: train.tensorParallel."""


class ExportBlock(Remote):
    """Weights for another program, or elsewhere."""

    to: Source | None = None
    """Where to write: a path in the workspace or s3://; default: runs/NAME/export."""
    format: Literal["pangu", "megatron", "huggingface", "npy"] = "pangu"
    """Format to write."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Cast the weights; default: as they are."""

    @property
    def elsewhere(self) -> str | None:
        """The address that the block names, if it names one."""
        return self.to if self.to and is_remote(self.to) else None

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        if self.to and scheme(self.to) == "https":
            raise broken_rule("to is an address of the web, which cannot be written", "use s3://")
        return self


class QueueBlock(Settings):
    """Kueue admits each stage by itself. It must manage batch/job and kubeflow.org/pytorchjob."""

    name: Name
    """LocalQueue to wait in. Training then asks for nodes.max, all of them or none."""
    priority_class: Name | None = None
    """WorkloadPriorityClass."""


class LimitsBlock(Settings):
    """When to give up."""

    pending_seconds: Positive | None = None
    """Release the pods of an attempt that stays below its minimum for so long."""
    deadline_seconds: Positive | None = None
    """Fail the job after so long."""
    surplus_seconds: Positive = 600
    """Give trainers back that wait for the rest of a node unit for so long; they are asked for again
    later."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Fail the job when it has used so much, waiting and redone steps included."""


class RerunBlock(Settings):
    """Run again from a stage, once for each number."""

    from_: Annotated[
        Literal["fetch", "convert", "split", "preprocess", "train", "merge", "export"],
        Field(alias="from"),
    ]
    """The first stage to run again; those after it follow. A stage whose output is there and still
    fits its inputs is skipped, and training goes on from its last checkpoint."""
    number: Positive
    """Counts the requests: a higher one than the job has seen is a new one."""


class NotifyBlock(Settings):
    """A call when the job ends, made by a small pod of the job's namespace. `pangu run` makes none."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$", max_length=1024)]
    """Address that is sent the job's end as JSON, by POST."""
    secret_ref: Reference | None = None
    """Secret whose key `token` is sent as a bearer token."""


class AutoscaleBlock(Settings):
    """More pods under load, fewer without. `replicas` is then the autoscaler's to write."""

    min: Positive = 1
    """Fewest pods."""
    max: Positive
    """Most pods."""
    waiting: Positive | None = None
    """Aim: so many texts wait in each pod."""
    cpu_percent: Positive | None = None
    """Aim: so much of the requested CPU is used."""
    prometheus: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=1024)] | None = None
    """Address of a Prometheus that collects the pods' metrics: KEDA asks it for `waiting`. Without
    it, a HorizontalPodAutoscaler asks the cluster's own metrics API."""

    @model_validator(mode="after")
    def _has_one_aim(self) -> Self:
        if (self.waiting is None) == (self.cpu_percent is None):
            raise broken_rule("must have exactly one of waiting, cpuPercent", "keep one of them")
        if self.prometheus and self.waiting is None:
            raise broken_rule("has prometheus, which is for waiting", "remove it")
        if self.min > self.max:
            raise broken_rule(f"min must not exceed max ({self.max})", "lower min or raise max")
        return self


class ServeBlock(Settings):
    """A generation service; image, workspace and model come from elsewhere."""

    replicas: Annotated[int, Field(ge=0)] = 1
    """Pods."""
    tensor_parallel: Positive = 1
    """GPUs that share one copy of the model."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the matrix products."""
    api_keys: SecretName | None = None
    """Secret whose values are the accepted keys; default: everyone may ask."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Texts that a pod writes together; the keys and values of each take memory."""
    max_queue: Annotated[int, Field(ge=0, lt=2**20)] = 64
    """Texts that may wait in a pod for a place; requests for more are refused with 429."""
    answer_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Longest that an answer takes, its wait included: a pod that has to go finishes what it has
    begun for so long."""
    autoscale: AutoscaleBlock | None = None
    """More pods under load; default: always `replicas`."""
    pods: PodSettings = PodSettings()
    """How its pods run."""
