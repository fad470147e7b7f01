"""Finds the micro-batches of a step whose loss or gradients are not finite, and names their samples.

A pass of its own over the step that failed, made once before training ends with an error: the
usual step does not look at its micro-batches one by one.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from pangu_core.data.batches import FILLER, Batch
from pangu_core.dist import gather_over_world
from pangu_core.parallel.rng import DropoutKey
from pangu_core.training import sharding
from pangu_core.training.step import MicroBatch, Replica, backward, token_loss

NAMED_MICRO_BATCHES: Final = 2  # in a message, which must stay short; the log has all

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Fault:
    """A micro-batch whose numbers are not finite."""

    micro_batch: int  # index within the global batch
    kind: str  # loss or gradient
    rows: tuple[int, ...]  # those at fault; a gradient is known for all rows together
    sample_ids: tuple[int, ...]  # of these rows


def find_faults(
    replica: Replica,
    batches: Sequence[MicroBatch],
    *,
    num_tokens: float,
    dropout: DropoutKey,
    loss_scale: float = 1.0,
) -> list[Fault]:
    """Compute each micro-batch of a step again, alone; the same list on every rank.

    All ranks must call it at once, with the step's own arguments and unchanged weights. Copies
    that only keep the ranks in step are not reported. Gradients are dropped. The log gets all.
    """
    found = []
    for index, batch in batches:
        key = DropoutKey(dropout.seed, dropout.step, index)
        sharding.forget_gradients(replica.parameters)
        # Reduced after each, so that no rank holds the gradients of the whole model; what is
        # looked at is what this rank brings into that reduction.
        sharding.set_gradient_sync(replica.model, enabled=True)
        with _watched_gradients(replica.model) as are_finite:
            losses = token_loss(replica.model, batch, replica.place.device, key)
            backward(losses.sum(), num_tokens=num_tokens, loss_scale=loss_scale)
        bad_rows = ~losses.detach().view(len(batch.tokens), -1).isfinite().all(dim=1)
        if bad_rows.any():
            found.append(_fault(index, batch, "loss", bad_rows.nonzero().flatten().tolist()))
        elif not torch.stack(are_finite).all():
            found.append(_fault(index, batch, "gradient", range(len(batch.tokens))))
    sharding.forget_gradients(replica.parameters)
    everywhere = {fault for faults in gather_over_world(found, replica.place) for fault in faults}
    faults = sorted(fault for fault in everywhere if fault.rows)
    if replica.place.is_first:
        for fault in faults:
            ids = _listed(fault.sample_ids)
            logger.error("micro-batch %d, %s: sample ids %s", fault.micro_batch, fault.kind, ids)
    return faults


def describe(faults: Sequence[Fault], *, first_sample: int, micro_batch_size: int) -> str:
    """Name micro-batches with the numbers and the ids of their samples.

    Args:
        faults: of one step.
        first_sample: the global sample counter at which the step begins.
        micro_batch_size: rows of a micro-batch.
    """
    if not faults:
        return "each micro-batch alone is finite"
    named = []
    for fault in faults[:NAMED_MICRO_BATCHES]:
        first = first_sample + fault.micro_batch * micro_batch_size
        numbers = _listed([first + row for row in fault.rows])
        ids = _listed(fault.sample_ids)
        named.append(
            f"micro-batch {fault.micro_batch} ({fault.kind}): samples {numbers} (ids {ids})"
        )
    count = f"{len(faults)} micro-batches, first " if len(faults) > len(named) else ""
    return count + "; ".join(named)


def _fault(index: int, batch: Batch, kind: str, rows: Iterable[int]) -> Fault:
    real = tuple(row for row in rows if batch.sample_ids[row] != FILLER)
    return Fault(index, kind, real, tuple(int(batch.sample_ids[row]) for row in real))


def _listed(numbers: Sequence[int]) -> str:
    """``7``, ``4 to 7`` for neighbours, else ``4, 9``."""
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


@contextmanager
def _watched_gradients(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects, for each gradient computed inside, whether it is finite.

    Where the data axis is sharded, the parameters whose gradients are computed exist during a
    pass only: hooks on the modules meet them there. Compiled code would not call those.
    """
    are_finite: list[torch.Tensor] = []
    handles: list[Any] = []

    def look(gradient: torch.Tensor) -> None:
        are_finite.append(gradient.isfinite().all())

    def watch(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            handles.append(parameter.register_hook(look))

    handles += [module.register_forward_pre_hook(watch) for module in model.modules()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield are_finite
    finally:
        for handle in handles:
            handle.remove()
