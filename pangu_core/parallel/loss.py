"""Cross entropy over logits whose vocabulary is spread over the tensor axis."""

from typing import Any

import torch
from torch.nn import functional as F

from pangu_core.dist import Axis
from pangu_core.parallel.collectives import all_reduce


class _CrossEntropy(torch.autograd.Function):
    """log sum exp minus the target's logit; the backward needs only the softmax.

    Three reductions over the axis: the maximum, the sum of exponentials, the target's logit.
    The softmax is kept in place of the logits, so one [N, V/tp] buffer lives until backward.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, start: int, rows: int, axis: Axis
    ) -> torch.Tensor:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        scores = logits[:, :rows].to(wide, copy=True)
        local = targets - start
        elsewhere = (local < 0) | (local >= rows)
        local = local.masked_fill(elsewhere, 0)

        maximum = scores.amax(dim=1) if rows else scores.new_full((len(scores),), -torch.inf)
        scores.sub_(all_reduce(maximum, axis, "max")[:, None])
        target_score = _pick(scores, local).masked_fill(elsewhere, 0.0)
        scores.exp_()
        total = scores.sum(dim=1)
        target_score, total = all_reduce(torch.stack([target_score, total]), axis).unbind()
        scores.div_(total[:, None])

        ctx.save_for_backward(scores, local, elsewhere)
        ctx.width, ctx.dtype = logits.shape[1], logits.dtype
        return total.log() - target_score

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        # In place: the buffer is as large as the logits. A second backward through the same
        # graph is refused by autograd, which notices the change.
        softmax, local, elsewhere = ctx.saved_tensors
        rows = softmax.shape[1]
        if rows:
            at_target = _pick(softmax, local) - (~elsewhere).to(softmax.dtype)
            softmax.scatter_(1, local[:, None], at_target[:, None]).mul_(grad[:, None])
        out = softmax.to(ctx.dtype)
        padded = F.pad(out, (0, ctx.width - rows)) if rows < ctx.width else out
        return padded, None, None, None, None


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, start: int, rows: int, axis: Axis
) -> torch.Tensor:
    """Loss of each token, the same on every rank of the axis.

    Args:
        logits: this rank's columns [N, width]; those from ``rows`` on are padding and ignored.
        targets: int64 ids [N] in the whole vocabulary.
        start: first id of this rank.
        rows: ids of this rank.
        axis: the tensor axis.

    Returns:
        [N], float32 (float64 for float64 logits).
    """
    loss: torch.Tensor = _CrossEntropy.apply(logits, targets, start, rows, axis)
    return loss


def _pick(scores: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    if not scores.shape[1]:
        return scores.new_zeros(len(scores))
    return scores.gather(1, local[:, None])[:, 0]
