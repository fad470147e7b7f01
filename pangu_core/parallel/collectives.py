"""Collectives over the tensor axis, each forward beside its backward.

The functional operators are used because the compiler can see and fuse them; they are called by
their own names, since the functions around them were renamed between torch 2.11 and 2.13.

Between tensor-parallel regions every rank holds the whole stream [B, T, C], or, with sequence
parallelism, the part [B, T/tp, C] that its rank number names. ``enter`` and ``leave`` are the two
doors of a region and know both ways.
"""

from typing import Any

import torch

from pangu_core.dist import Axis

SEQUENCE_DIM = 1


class _Copy(torch.autograd.Function):
    """Identity forward, sum backward: each rank's gradient covers its own part of the work."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_reduce(grad, ctx.axis), None


class _Reduce(torch.autograd.Function):
    """Sum forward, identity backward: every rank receives the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        return all_reduce(x, axis)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class _Gather(torch.autograd.Function):
    """Join the parts of the sequence forward; sum and cut the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return all_gather(x, axis, SEQUENCE_DIM)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return reduce_scatter(grad, ctx.axis, SEQUENCE_DIM), None


class _ReduceScatter(torch.autograd.Function):
    """Sum and cut along the sequence forward; join the parts of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return reduce_scatter(x, axis, SEQUENCE_DIM)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_gather(grad, ctx.axis, SEQUENCE_DIM), None


def enter(x: torch.Tensor, axis: Axis, stream: Axis) -> torch.Tensor:
    """Enter a tensor-parallel region.

    Args:
        x: this rank's part of the stream, [B, T/stream, C].
        axis: the tensor axis.
        stream: the axis over which the stream is spread by sequence; of size 1 where every rank
            holds it whole.

    Returns:
        The whole stream, [B, T, C].
    """
    if axis.size == 1:
        return x
    entered: torch.Tensor = (_Copy if stream.size == 1 else _Gather).apply(x, axis)
    return entered


def leave(x: torch.Tensor, axis: Axis, stream: Axis) -> torch.Tensor:
    """Leave a tensor-parallel region: sum the ranks' [B, T, C], keep the part of the stream."""
    if axis.size == 1:
        return x
    left: torch.Tensor = (_Reduce if stream.size == 1 else _ReduceScatter).apply(x, axis)
    return left


def own_part(x: torch.Tensor, stream: Axis) -> torch.Tensor:
    """This rank's part of a tensor [B, T, ...] that every rank holds whole (a view)."""
    if stream.size == 1:
        return x
    length = x.shape[SEQUENCE_DIM] // stream.size
    return x.narrow(SEQUENCE_DIM, stream.rank * length, length)


def all_reduce(x: torch.Tensor, axis: Axis, op: str = "sum") -> torch.Tensor:
    """Reduce over the axis, outside autograd; the input is left as it is."""
    if axis.size == 1:
        return x
    return _wait(_OPERATORS.all_reduce(x.contiguous(), op, axis.group_name))


def all_gather(x: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """Concatenate the ranks' tensors along ``dim``, outside autograd."""
    if axis.size == 1:
        return x
    # The operator joins along a dimension of its own in front.
    dim %= x.dim()
    joined = _OPERATORS.all_gather_into_tensor(x.contiguous()[None], axis.size, axis.group_name)
    return _wait(joined).movedim(0, dim).flatten(dim, dim + 1)


def reduce_scatter(x: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """Sum over the ranks, keep this rank's part along ``dim``; outside autograd."""
    if axis.size == 1:
        return x
    parts = x.unflatten(dim, (axis.size, -1)).movedim(dim, 0).contiguous()
    part = _OPERATORS.reduce_scatter_tensor(parts, "sum", axis.size, axis.group_name)
    return _wait(part)[0]


_OPERATORS = torch.ops._c10d_functional


def _wait(x: torch.Tensor) -> torch.Tensor:
    done: torch.Tensor = _OPERATORS.wait_tensor(x)
    return done
