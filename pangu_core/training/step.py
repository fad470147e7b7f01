"""One optimizer step: forward and backward over the micro-batches, clip, update."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pangu_core.data.batches import Batch
from pangu_core.dist import Topology, sum_over_world
from pangu_core.model.gpt import PanguModel
from pangu_core.parallel.loss import vocab_parallel_cross_entropy
from pangu_core.parallel.rng import DropoutKey
from pangu_core.training import optimizer as optimizing
from pangu_core.training import sharding
from pangu_core.training.sharding import OwnedParameter

MicroBatch = tuple[int, Batch]  # index within the global batch, and its rows


@dataclass(frozen=True)
class Replica:
    """One rank's part of the model, with what trains it."""

    model: PanguModel
    parameters: Sequence[OwnedParameter]
    optimizer: torch.optim.Optimizer
    place: Topology


@dataclass(frozen=True)
class StepResult:
    """What a step reports, equal on all ranks."""

    loss: float  # mean over the loss-bearing tokens of the global batch
    grad_norm: float  # without loss scale, before clipping
    is_applied: bool = True  # False: something was not finite, and no rank made the update

    @property
    def has_finite_loss(self) -> bool:
        """Whether the loss is a number; if not, the loss scale is not to blame."""
        return math.isfinite(self.loss)


def token_loss(
    model: PanguModel, batch: Batch, device: torch.device, dropout: DropoutKey | None = None
) -> torch.Tensor:
    """Loss of each token times its weight, [B * T]."""
    logits = model(
        _tensor(batch.tokens, device),
        positions_BT=_tensor(batch.positions, device),
        documents_BT=None if batch.documents is None else _tensor(batch.documents, device),
        dropout=dropout,
    )
    table = model.word_embedding
    losses = vocab_parallel_cross_entropy(
        logits.flatten(0, 1),
        _tensor(batch.labels, device).flatten(),
        start=table.start,
        rows=table.num_rows,
        axis=model.axis,
    )
    return losses * _tensor(batch.loss_mask, device).flatten().to(losses.dtype)


def backward(loss_sum: torch.Tensor, *, num_tokens: float, loss_scale: float) -> None:
    """Add the gradients of loss_sum / num_tokens, times the scale, to the parameters'."""
    (loss_sum / num_tokens).backward(torch.full_like(loss_sum, loss_scale))


def accumulate(
    model: PanguModel,
    batches: Sequence[MicroBatch],
    *,
    num_tokens: float,
    dropout: DropoutKey,
    device: torch.device,
    loss_scale: float = 1.0,
) -> float:
    """Add up the gradients of this rank's micro-batches; returns its share of the loss sum.

    ``num_tokens`` is the global count of loss-bearing tokens: every micro-batch is divided by
    it, so that plain sums over ranks give the mean over the global batch.
    ``loss_scale`` multiplies the gradients only.
    """
    total = 0.0
    for number, (index, batch) in enumerate(batches):
        sharding.set_gradient_sync(model, number == len(batches) - 1)
        key = DropoutKey(dropout.seed, dropout.step, index)
        loss = token_loss(model, batch, device, key).sum()
        backward(loss, num_tokens=num_tokens, loss_scale=loss_scale)
        total += float(loss.detach())
    return total


def train_step(
    replica: Replica,
    batches: Sequence[MicroBatch],
    *,
    num_tokens: float,
    dropout: DropoutKey,
    rate: float,
    clip_norm: float,
    loss_scale: float = 1.0,
) -> StepResult:
    """Forward, backward, clip and update once; no update if a number on any rank is not finite.

    Args:
        replica: what to train.
        batches: this rank's micro-batches.
        num_tokens: loss-bearing tokens of the global batch.
        dropout: key of the step; each micro-batch puts its own index in.
        rate: learning rate of this update.
        clip_norm: largest gradient norm, 0 for no limit.
        loss_scale: factor of the gradients while they are computed.
    """
    parameters, place = replica.parameters, replica.place
    sharding.forget_gradients(parameters)
    loss_sum = accumulate(
        replica.model,
        batches,
        num_tokens=num_tokens,
        dropout=dropout,
        device=place.device,
        loss_scale=loss_scale,
    )
    sharding.adopt_gradients(parameters, place.tp)
    # Tensor ranks hold the same loss: count it once.
    own_loss = loss_sum if place.tp.rank == 0 else 0.0
    own_square, own_finite = optimizing.measure_gradients(parameters)
    values = [own_loss, own_square, float(not own_finite)]
    loss_sum, square, num_not_finite = sum_over_world(values, place)
    loss, norm = loss_sum / num_tokens, square**0.5 / loss_scale
    if num_not_finite or not math.isfinite(loss):
        return StepResult(loss, math.nan if num_not_finite else norm, is_applied=False)
    factor = optimizing.clip_factor(norm, clip_norm) / loss_scale
    optimizing.multiply_gradients_(parameters, factor)
    optimizing.set_rate(replica.optimizer, rate)
    replica.optimizer.step()
    return StepResult(loss, norm)


@torch.no_grad()
def evaluate(
    replica: Replica,
    batches: Sequence[MicroBatch],
    *,
    must_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Mean loss over the loss-bearing tokens of all data ranks' batches.

    Returns None if a rank was asked to stop: they agree on it after every batch.
    """
    total = count = 0.0
    place = replica.place
    for _, batch in batches:
        own = [float(token_loss(replica.model, batch, place.device).sum())]
        own += [float(batch.loss_mask.sum())]
        # Tensor ranks hold the same loss: count it once.
        values = [0.0, 0.0] if place.tp.rank else own
        loss, tokens, stopping = sum_over_world([*values, float(must_stop())], place)
        if stopping:
            return None
        total, count = total + loss, count + tokens
    return total / count


def _tensor(array: object, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(array).to(device, non_blocking=True)
