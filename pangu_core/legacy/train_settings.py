"""From the flags of pretrain_gpt2 to the settings of our trainer. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from pangu_core import loading
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.errors import ConfigError
from pangu_core.legacy.parsing import Options

RUN_NAME: Final = "legacy"
# Paths in the work folder, which is the trainer's workspace.
TOKENS: Final = "data/tokens"
LOADED: Final = "loaded"
VOCABULARY: Final = "vocabulary/vocab.model"


@dataclass(frozen=True)
class World:
    """How many processes train, and how they share."""

    size: int
    tensor_parallel: int

    @classmethod
    def of(cls, options: Options, size: int) -> "World":
        """Megatron's rule: no more parts of the model than processes."""
        return cls(size, min(options["model_parallel_size"], size))

    @property
    def data_parallel(self) -> int:
        """Copies of the model."""
        return max(1, self.size // self.tensor_parallel)


def global_batch_size(options: Options, world: World) -> int:
    """Sequences in a step: ``--batch-size`` is one copy's."""
    return int(options["batch_size"] or 1) * world.data_parallel


def fresh_model(options: Options, vocab_size: int) -> ModelConfig:
    """The sizes of a network that starts without weights.

    Raises:
        ConfigError: a size is missing, or the sizes do not fit each other.
    """
    why = "says a size of the network, which starts without weights"
    values = {
        "num_layers": options.require("num_layers", why) + 1,  # the query layer is ours to count
        "hidden_size": options.require("hidden_size", why),
        "num_heads": options.require("num_attention_heads", why),
        "sequence_length": options.require("max_position_embeddings", why),
        "vocab_size": vocab_size,
        "layer_norm_epsilon": options["layernorm_epsilon"],
        "init_std": options["init_method_std"],
    }
    return loading.load(ModelConfig, values, "model")


def train_config(
    options: Options, world: World, *, model: ModelConfig, is_finetuning: bool
) -> TrainConfig:
    """The trainer's config; its paths lie in the work folder.

    Raises:
        ConfigError: a value is missing or does not fit.
    """
    if options["lr_decay_style"] == "exponential":
        raise ConfigError(
            "--lr-decay-style",
            seen="exponential",
            rule="is the one style that was not brought over; no script of the port uses it",
            fix="use cosine, linear or constant",
        )
    return loading.load(
        TrainConfig,
        {
            "run": {"name": RUN_NAME, "uid": RUN_NAME},
            "model": model.dump(),
            "initFrom": LOADED if is_finetuning else None,
            "tokenizer": VOCABULARY,
            "tokenFiles": TOKENS,
            "data": {
                "split": options["split"],
                "order": "reference",
                "documentMask": options["reset_attention_mask"],
            },
            "train": _train(options, world),
        },
    )


def _train(options: Options, world: World) -> dict[str, Any]:
    steps = options.require("train_iters", "says how long to train")
    return {
        "steps": steps,
        "globalBatchSize": global_batch_size(options, world),
        "microBatchSize": options["batch_size"] or 1,
        "sequenceLength": options["seq_length"],
        "tensorParallel": world.tensor_parallel,
        "nodes": {"processesPerNode": world.size},
        # The range of fp32, so that no loss scale is needed; weights are fp32 either way.
        "precision": "bf16" if options["fp16"] else "fp32",
        "optimizer": {
            "learningRate": options.require("lr", "is the highest learning rate"),
            "minLearningRate": options["min_lr"],
            "schedule": options["lr_decay_style"],
            "warmup": options["warmup"],
            "decaySteps": options["lr_decay_iters"],
            "weightDecay": options["weight_decay"],
            "clipGradNorm": options["clip_grad"],
        },
        "attentionDropout": options["attention_dropout"],
        "hiddenDropout": options["hidden_dropout"],
        "recompute": options["checkpoint_activations"],
        "seed": options["seed"],
        "checkpoint": {"everySteps": options["save_interval"] or steps, "keep": 1},
        "evaluate": {
            "everySteps": options["eval_interval"],
            "batches": max(1, options["eval_iters"]),
        },
        "logEverySteps": options["log_interval"],
    }
