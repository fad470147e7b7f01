"""Frozen settings, shared by the job file, the controller and the pods. Must not import torch.

YAML is written in camelCase, Python in snake_case. The string below each field is its
documentation: it ends up in the CRD and in docs/configuration.md.
"""

import math
import os
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from pangu_core.errors import ConfigError

# Reading the fields' documentation out of the source takes 60 ms, a fifth of ``pangu render``: only
# what writes documentation or schemas sets this variable, before its first import.
FIELD_DOCS_VARIABLE: Final = "PANGU_FIELD_DOCS"
Activation = Literal["gelu_tanh", "gelu_erf", "fast_gelu"]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]
# The bounds refuse slips of the keyboard before anything overflows or is allocated.
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Size = Annotated[int, Field(ge=1, lt=2**24)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
T = TypeVar("T")
# Frozen settings hold tuples, YAML gives lists; what is in them is still checked strictly.
Items = Annotated[tuple[T, ...], Field(strict=False)]


class Settings(BaseModel):
    """Base of every settings class: frozen, camelCase in YAML, strict about keys and about types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=FIELD_DOCS_VARIABLE in os.environ,
        allow_inf_nan=False,
    )

    def dump(self) -> dict[str, Any]:
        """Plain YAML-ready values in camelCase; ``type(self).model_validate`` reads them back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ModelConfig(Settings):
    """The sizes of one PanGu-alpha network."""

    num_layers: Size
    """Transformer layers, the query layer included (the Megatron port counts one less)."""
    hidden_size: Size
    """Width of the residual stream."""
    num_heads: Size
    """Attention heads; must divide hiddenSize."""
    vocab_size: Size = 40_000
    """Rows of the word table. Files hold exactly these; padding exists in memory only."""
    sequence_length: Size = 1_024
    """Rows of the position and query tables: the longest sequence the model can read."""
    layer_norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance inside the square root."""
    activation: Activation = "gelu_tanh"
    """tanh GELU is MindSpore's; a Megatron-port checkpoint tuned with erf GELU says so itself."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights; output projections are scaled by 1/sqrt(2 L)."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """L (12 h^2 + 13 h) + V h + 2 S h + 2 h, the tied head counted once."""
        h = self.hidden_size
        tables = (self.vocab_size + 2 * self.sequence_length) * h
        return self.num_layers * (12 * h * h + 13 * h) + tables + 2 * h

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                "model.numHeads",
                seen=self.num_heads,
                rule=f"must divide model.hiddenSize ({self.hidden_size})",
                fix=f"choose one of {divisors(self.hidden_size)}",
            )
        return self


PRESETS: Final[dict[str, ModelConfig]] = {
    # tiny is ours, for laptops and tests; the others are the published sizes (paper, table 1;
    # 350M from the released configuration).
    "tiny": ModelConfig(num_layers=4, hidden_size=128, num_heads=4, sequence_length=256),
    "350M": ModelConfig(num_layers=24, hidden_size=1024, num_heads=16),
    "2.6B": ModelConfig(num_layers=32, hidden_size=2560, num_heads=32),
    "13B": ModelConfig(num_layers=40, hidden_size=5120, num_heads=40),
}


class OptimizerConfig(Settings):
    """AdamW and its schedule. Defaults are those of the original fine-tuning script."""

    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-4
    """Peak learning rate, reached at the end of the warm-up."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-5
    """Floor of the decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup: Fraction = 0.01
    """Share of decaySteps spent rising linearly from 0."""
    decay_steps: Positive | None = None
    """Steps over which the rate decays; default: train.steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled decay of matrices and tables; LayerNorm and biases are never decayed."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    clip_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 switches clipping off."""


class NodesConfig(Settings):
    """How many pods train, and how many processes each runs."""

    min: Positive = 1
    """Fewest pods the job may run with."""
    max: Positive = 1
    """Most pods the job may run with."""
    processes_per_node: Positive = 1
    """Training processes in a pod: its GPUs, or as many as the CPUs allow."""

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
        if self.min > self.max:
            raise ConfigError(
                "train.nodes.min",
                seen=self.min,
                rule=f"must not exceed train.nodes.max ({self.max})",
                fix="lower min or raise max",
            )
        return self


class CheckpointConfig(Settings):
    """When checkpoints are written and how many are kept."""

    every_steps: Positive = 300
    """Steps between checkpoints. The last step is always saved."""
    keep: Positive = 3
    """Newest checkpoints to keep; the final one always stays."""


class EvaluateConfig(Settings):
    """Loss on the validation split during training."""

    every_steps: Positive = 1_000
    """Steps between evaluations; the last step is always evaluated."""
    batches: Positive = 10
    """Global batches in one evaluation, always the same ones."""


class RestartsConfig(Settings):
    """The restart budget. Preemption and lost peers are free."""

    limit: Annotated[int, Field(ge=0)] = 5
    """Charged attempts before the job fails."""
    window_seconds: Positive = 3_600
    """Only charges this recent count."""


class HangConfig(Settings):
    """When a rank counts as stalled: max(floorSeconds, factor x median step)."""

    floor_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Never call a rank stalled earlier than this."""
    factor: Annotated[float, Field(gt=1)] = 5.0
    """Times the median step."""


class LoraConfig(Settings):
    """Low-rank adapters. Accepted by the form, not built yet."""

    rank: Positive = 8
    """Inner dimension of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout in front of the adapter."""


class TrainSettings(Settings):
    """The ``train`` block of a job file."""

    steps: Positive
    """Optimizer steps in all, those before a restart included."""
    global_batch_size: Positive
    """Sequences in one optimizer step, over all ranks and micro-batches."""
    micro_batch_size: Positive | Literal["auto"] = "auto"
    """Sequences in one forward pass of one rank; auto is resolved once and stored with the run."""
    sequence_length: Size | None = None
    """Tokens in a training sequence; default: the model's sequenceLength."""
    tensor_parallel: Positive = 1
    """Ranks that share one copy of the model (M)."""
    nodes: NodesConfig = NodesConfig()
    """Pods and processes."""
    precision: Precision = "bf16"
    """Arithmetic of the matrix products; parameters, LayerNorm, softmax and loss are fp32."""
    method: Literal["full", "lora"] = "full"
    """Which parameters are tuned."""
    lora: LoraConfig | None = None
    """Settings of method: lora."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    attention_dropout: Fraction = 0.1
    """Dropout of the attention probabilities."""
    hidden_dropout: Fraction = 0.1
    """Dropout of embeddings, attention output and MLP output."""
    recompute: bool = False
    """Recompute each layer's activations in the backward pass: less memory, a third more work."""
    seed: int = 1234
    """Seed of weights, data order and dropout."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save, what to keep."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When to evaluate, on how much."""
    restarts: RestartsConfig = RestartsConfig()
    """The restart budget."""
    hang: HangConfig = HangConfig()
    """Stall detection."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics."""

    @model_validator(mode="after")
    def _ranks_form_whole_tensor_groups(self) -> Self:
        m, p = self.tensor_parallel, self.nodes.processes_per_node
        if m % p and p % m:
            raise ConfigError(
                "train.tensorParallel",
                seen=m,
                rule=f"must divide nodes.processesPerNode ({p}) or be a multiple of it",
                fix=f"choose one of {divisors(p)} or a multiple of {p}",
            )
        for name, count in (("min", self.nodes.min), ("max", self.nodes.max)):
            if count % self.node_unit:
                raise ConfigError(
                    f"train.nodes.{name}",
                    seen=count,
                    rule=f"{count} x {p} processes must form whole groups of {m} ranks",
                    fix=f"use a multiple of {self.node_unit} nodes",
                )
        return self

    @property
    def node_unit(self) -> int:
        """Fewest nodes that hold whole tensor-parallel groups: u = max(1, M / P)."""
        return max(1, self.tensor_parallel // self.nodes.processes_per_node)


class DataSettings(Settings):
    """How token files become batches: the part of the ``data`` block that training reads."""

    split: str = "949,50,1"
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


def divisors(number: int) -> list[int]:
    """All divisors in rising order, for messages that offer a choice."""
    return [d for d in range(1, number + 1) if number % d == 0]
