"""Collectives over the tensor axis, each forward beside its backward.

Functional collectives are used because the compiler can see and fuse them.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from pangu_core.dist import Axis


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


def copy_to(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Enter a tensor-parallel region with a replicated tensor."""
    return x if axis.size == 1 else _Copy.apply(x, axis)


def reduce_from(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Leave a tensor-parallel region: sum the ranks' partial results."""
    return x if axis.size == 1 else _Reduce.apply(x, axis)


def all_reduce(x: torch.Tensor, axis: Axis, op: str = "sum") -> torch.Tensor:
    """Reduce over the axis, outside autograd; the input is left as it is."""
    if axis.size == 1:
        return x
    assert axis.group is not None
    return functional.wait_tensor(functional.all_reduce(x.contiguous(), op, axis.group))


def all_gather(x: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """Concatenate the ranks' tensors along ``dim``, outside autograd."""
    if axis.size == 1:
        return x
    # The functional form has one name in torch 2.11 and, deprecating it, another in 2.13.
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(axis.size)]
    dist.all_gather(parts, x.contiguous(), group=axis.group)
    return torch.cat(parts, dim)
