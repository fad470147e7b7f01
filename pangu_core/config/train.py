"""The ``train`` block of a job file."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pangu_core.config.base import Fraction, Positive, Settings, Size, divisors
from pangu_core.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


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
    keep_every: Positive | None = None
    """Checkpoints of steps that are multiples of this stay for ever."""
    keep_best: Annotated[int, Field(ge=0)] = 0
    """Checkpoints with the lowest validation loss to keep besides the newest."""
    asynchronous: bool = True
    """Copy the state into host memory and write it while training goes on; false: wait for it."""
    copy_to: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+")] | None = None
    """Folder elsewhere (s3://bucket/prefix, file:///mount/folder, ...) of this run's own, that gets
    a copy of every checkpoint that is kept. A workspace without a checkpoint gets the newest back.
    Credentials come from the environment: podsByStage.train.envFrom."""


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


class LossScaleConfig(Settings):
    """The dynamic loss scale of precision: fp16."""

    initial: Annotated[float, Field(ge=1)] = 65_536.0
    """Scale of the first step."""
    minimum: Annotated[float, Field(ge=1)] = 1.0
    """Training stops when gradients overflow at this scale."""
    window: Positive = 1_000
    """Steps in a row without overflow after which the scale doubles."""
    hysteresis: Positive = 2
    """The scale halves at this overflow since it last grew, and at each further one."""

    @model_validator(mode="after")
    def _minimum_is_not_above_initial(self) -> Self:
        if self.minimum > self.initial:
            raise ConfigError(
                "train.lossScale.minimum",
                seen=self.minimum,
                rule=f"must not exceed train.lossScale.initial ({self.initial})",
                fix="lower minimum or raise initial",
            )
        return self


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
    loss_scale: LossScaleConfig = LossScaleConfig()
    """Dynamic loss scale, used with precision: fp16."""
    max_skipped_steps: Positive = 5
    """Training stops at this many steps in a row whose loss or gradient is not finite."""
    sequence_parallel: bool = False
    """Spread LayerNorm, dropout and residuals over the tensor-parallel ranks by sequence."""
    compile: bool = False
    """Compile each layer with torch.compile: a slower start, faster steps."""
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
    warm_spares: bool = True
    """Keep one more process for each rank, with its libraries loaded (260 to 370 MB of memory, no GPU's):
    a lost rank is replaced some seconds sooner."""
    hang: HangConfig = HangConfig()
    """Stall detection."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics."""
    log_samples: bool = False
    """Write the sample numbers that each rank trained on to samples/ in the run's folder."""

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
