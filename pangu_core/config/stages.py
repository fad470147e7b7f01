"""What each stage's pods read from their config file."""

import math
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from pangu_core.config.base import Items, Positive, Settings
from pangu_core.config.model import ModelConfig
from pangu_core.config.train import TrainSettings
from pangu_core.errors import ConfigError


class DataSettings(Settings):
    """How token files become batches: the part of the ``data`` block that training reads."""

    split: Annotated[str, Field(max_length=64)] = "949,50,1"
    """Shares of documents for training, validation and test, as the original's --split."""
    order: Literal["shuffled", "reference"] = "shuffled"
    """shuffled: a pure function of (seed, sample counter). reference: Megatron's index files."""
    document_mask: bool = True
    """Attention stops and positions restart after id 9, as in pre-training; false: plain causal."""

    @property
    def shares(self) -> tuple[float, float, float]:
        """The split as three fractions that sum to 1."""
        parts = [float(x) for x in self.split.split(",")]
        parts += [0.0] * (3 - len(parts))
        total = sum(parts)
        return parts[0] / total, parts[1] / total, parts[2] / total

    @model_validator(mode="after")
    def _split_is_up_to_three_shares(self) -> Self:
        try:
            parts = [float(x) for x in self.split.split(",")]
        except ValueError:
            parts = []
        good = 1 <= len(parts) <= 3 and all(math.isfinite(x) and x >= 0 for x in parts)
        if not good or not sum(parts):
            raise ConfigError(
                "data.split",
                seen=self.split,
                rule="must be one to three numbers, none negative, not all zero",
                fix='write for example "949,50,1"',
            )
        return self


class RunIdentity(Settings):
    """Which run writes here; lets a checkpoint refuse a stranger and a straggler."""

    name: str
    """The job's name; outputs go to runs/<name>/."""
    uid: str
    """Unique per job object: a second job of the same name is a stranger."""
    attempt: Positive = 1
    """Counts the starts of this stage; a lower attempt never moves ``latest``."""
    resume_from: str | None = None
    """Uid or name of an earlier run whose results this one may take on."""

    def may_continue(self, *, uid: str, name: str) -> bool:
        """Whether what another run wrote is this one's to go on with."""
        return self.uid == uid or self.resume_from in (uid, name)


# Environment of the ``notify`` pod: the bearer token of its call.
NOTIFY_TOKEN_VARIABLE: Final = "PANGU_NOTIFY_TOKEN"  # noqa: S105 - a variable's name


class NotifyConfig(Settings):
    """What the ``notify`` pod reads."""

    url: str
    """Address of the call, http:// or https://."""
    body: str
    """JSON, as it is sent."""
    key: str
    """Idempotency-Key of the call: the same for each try, and for no other end of a job."""


class FetchSource(Settings):
    """Files elsewhere and where they go."""

    field: str
    """Field of the job file that names them, for messages."""
    url: str
    """A file, a folder, or a pattern: s3:// or https://."""
    target: str
    """Folder in the workspace; what is in it and no longer there is removed."""
    folders: bool = True
    """Whether the address may be a folder, all of which comes; else a file or a pattern."""


class FetchConfig(Settings):
    """What the ``fetch`` pod reads."""

    run: RunIdentity
    """Whose run this is."""
    sources: Items[FetchSource]
    """What to fetch."""


class PreprocessConfig(Settings):
    """What the ``preprocess`` pod reads."""

    run: RunIdentity
    """Whose run this is."""
    input: str
    """Glob of text files, relative to the workspace."""
    format: Literal["text", "jsonl"] = "text"
    """text: documents separated by blank lines; jsonl: one object a line, field ``text``."""
    json_key: str = "text"
    """Field of a JSON line that holds the document."""
    split_sentences: bool = False
    """One item per sentence (Chinese and Western endings) rather than per document."""
    tokenizer: str | None = None
    """Folder or file of the SentencePiece model in the workspace; default: the image's."""
    append_eod: bool = True
    """Append id 9 to every document, as pre-training did."""
    output: str
    """Prefix of the token files in the workspace: <prefix>.bin and <prefix>.idx."""
    workers: Positive | None = None
    """Processes; default: one per CPU."""


class TrainConfig(Settings):
    """What the ``train`` pods read."""

    run: RunIdentity
    """Whose run this is."""
    model: ModelConfig | None = None
    """Sizes of the network; default: those of ``initFrom``."""
    init_from: str | None = None
    """Checkpoint in the workspace to start from; None: fresh weights."""
    tokenizer: str | None = None
    """SentencePiece model whose copy goes into each checkpoint; default: the image's."""
    token_files: str
    """Prefix of the token files in the workspace."""
    data: DataSettings = DataSettings()
    """Split, order, masks."""
    train: TrainSettings
    """Everything else."""


class ReshardConfig(Settings):
    """What the ``split`` and ``merge`` pods read."""

    run: RunIdentity
    """Whose run this is."""
    source: str
    """A checkpoint folder, or a folder of checkpoints with a ``latest`` pointer."""
    target: str
    """Folder to write; a checkpoint that stands there is replaced, anything else refused."""
    tensor_parallel: Positive = 1
    """Tensor-parallel size of the shards to write; 1: one whole checkpoint."""
    optimizer: bool = False
    """Carry the optimizer's moments along."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Cast the weights; None: as they are."""


class ConvertConfig(Settings):
    """What the ``convert`` and ``export`` pods read."""

    run: RunIdentity
    """Whose run this is."""
    source: str
    """Weights to read."""
    target: str
    """Folder to write."""
    copy_to: str | None = None
    """Folder elsewhere (s3://...) that gets a copy of what was written."""
    from_format: str = "auto"
    """Format of the source; auto looks."""
    to_format: str = "pangu"
    """Format to write."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Cast the weights; None: as they are."""
    optimizer: bool = False
    """Carry the optimizer's moments along, which the source must have."""
    strategy: str | None = None
    """How a distributed MindSpore checkpoint is cut: its strategy file; default: found beside it."""
    tensor_parallel: Positive = 1
    """Files to write, in a Megatron format: one for each model-parallel rank."""
    vocab_divisor: Positive = 128
    """Megatron formats pad the vocabulary to a multiple of this times tensorParallel."""
    model: ModelConfig | None = None
    """Sizes, where the source does not carry the head count."""


class ServeConfig(Settings):
    """What the pods of a service read."""

    name: Annotated[str, Field(min_length=1)]
    """What requests call the model."""
    model: str
    """A checkpoint folder, or a folder of checkpoints, whose newest one counts."""
    tokenizer: str | None = None
    """SentencePiece model in the workspace; default: the checkpoint's own, else the image's."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of weights and arithmetic; LayerNorm stays fp32."""
    tensor_parallel: Positive = 1
    """GPUs that share one copy of the model."""
    device: str | None = None
    """A torch device; default: the GPU if there is one."""
    host: str = "0.0.0.0"  # noqa: S104 - a pod's own address
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 8000
    """Port to listen on; 0: any."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Texts written together; the keys and values of each take memory."""
    max_queue: Annotated[int, Field(ge=0, lt=2**20)] = 64
    """Texts that may wait for a place; requests for more are refused with 429."""
    drain_delay_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How long requests are taken on after SIGTERM, while the pod's address is still known."""
    stall_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A batch that makes no token for so long counts as stuck: livez and readyz say so."""
