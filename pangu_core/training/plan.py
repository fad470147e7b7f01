"""What follows from the settings before any step runs. Pure."""

from dataclasses import dataclass

from pangu_core.config.base import divisors
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.config.train import TrainSettings
from pangu_core.errors import ConfigError

# Tokens in one forward pass of one rank, when the micro-batch size is chosen for the user.
AUTO_TOKENS = 4_096


@dataclass(frozen=True)
class Plan:
    """Settled numbers of a run."""

    steps: int
    sequence_length: int
    global_batch_size: int
    micro_batch_size: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.global_batch_size * self.sequence_length


def settle(config: TrainConfig, model: ModelConfig, micro_batch_size: int | None) -> Plan:
    """Check the settings against the model and fix what is left open.

    Args:
        config: the stage's config.
        model: sizes of the network.
        micro_batch_size: what an earlier attempt of this run used; ``auto`` keeps it, so that a
            change of world size changes nothing else.

    Raises:
        ConfigError: heads or sequences do not divide, or sequences are longer than the position
            table.
    """
    train = config.train
    if model.num_heads % train.tensor_parallel:
        raise ConfigError(
            "model.numHeads",
            seen=model.num_heads,
            rule=f"must be a multiple of train.tensorParallel ({train.tensor_parallel})",
            fix=f"set tensorParallel to one of {divisors(model.num_heads)}",
        )
    length = train.sequence_length or model.sequence_length
    if length > model.sequence_length:
        raise ConfigError(
            "train.sequenceLength",
            seen=length,
            rule=f"must not exceed the model's position table ({model.sequence_length})",
            fix=f"use {model.sequence_length} or less",
        )
    if train.sequence_parallel and length % train.tensor_parallel:
        raise ConfigError(
            "train.sequenceLength",
            seen=length,
            rule=f"must be a multiple of train.tensorParallel ({train.tensor_parallel}), "
            "since train.sequenceParallel gives every rank an equal part",
            fix=f"use {length - length % train.tensor_parallel}, or leave sequenceParallel out",
        )
    if train.micro_batch_size != "auto":
        micro = train.micro_batch_size
    else:
        micro = micro_batch_size or _choose_micro_batch_size(train, length)
    if micro > train.global_batch_size:
        raise ConfigError(
            "train.microBatchSize",
            seen=micro,
            rule=f"must not exceed train.globalBatchSize ({train.global_batch_size})",
            fix="lower it, or write auto",
        )
    return Plan(train.steps, length, train.global_batch_size, micro)


def _choose_micro_batch_size(train: TrainSettings, length: int) -> int:
    """The largest divisor that leaves every data rank of the largest world a share."""
    ranks = train.nodes.max * train.nodes.processes_per_node // train.tensor_parallel
    share = max(1, train.global_batch_size // ranks)
    room = max(1, AUTO_TOKENS // length)
    return max(d for d in divisors(train.global_batch_size) if d <= min(share, room))
