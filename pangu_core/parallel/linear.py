"""Column- and row-parallel linear layers.

Weights are [out, in]. Parameters keep their own dtype and are cast to the input's for the
product, so that fp32 master weights and bf16 arithmetic need no second copy of the model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from pangu_core.dist import Axis
from pangu_core.parallel.collectives import copy_to, reduce_from


class ParallelInput(nn.Module):
    """The door into a tensor-parallel region: identity forward, gradient summed backward.

    Layers that read one input share one door, and so one collective.
    """

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mark ``x`` [..., C] as read by every rank of the axis."""
        return copy_to(x, self.axis)


class ColumnParallelLinear(nn.Module):
    """y = x W^T + b with the rows of W (the outputs) spread over the tensor axis.

    The input must have come through a ``ParallelInput``.
    """

    def __init__(self, in_size: int, out_size: int, axis: Axis, dtype: torch.dtype) -> None:
        super().__init__()
        assert out_size % axis.size == 0, (out_size, axis.size)
        self.weight = nn.Parameter(torch.empty(out_size // axis.size, in_size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_size // axis.size, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to this rank's [..., out / tp]."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class RowParallelLinear(nn.Module):
    """y = sum over ranks of (x_l W_l^T) + b, with the columns of W spread over the tensor axis.

    The bias is held whole by every rank and added once, after the sum.
    """

    def __init__(self, in_size: int, out_size: int, axis: Axis, dtype: torch.dtype) -> None:
        super().__init__()
        assert in_size % axis.size == 0, (in_size, axis.size)
        self.axis = axis
        self.weight = nn.Parameter(torch.empty(out_size, in_size // axis.size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_size, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map this rank's [..., in / tp] to the whole [..., out]."""
        partial = F.linear(x, self.weight.to(x.dtype))
        return reduce_from(partial, self.axis) + self.bias.to(x.dtype)
