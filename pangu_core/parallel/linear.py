"""Column- and row-parallel linear layers.

Weights are [out, in]. Parameters keep their own dtype and are cast to the input's for the
product, so that fp32 master weights and bf16 arithmetic need no second copy of the model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from pangu_core.dist import ALONE, Axis
from pangu_core.parallel.collectives import enter, leave


class ParallelInput(nn.Module):
    """The door into a tensor-parallel region: the whole stream forward, gradient summed backward.

    Layers that read one input share one door, and so one collective.
    """

    def __init__(self, axis: Axis, stream: Axis = ALONE) -> None:
        super().__init__()
        self.axis = axis
        self.stream = stream

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map this rank's part of the stream to all of it, [B, T, C], read by every rank."""
        return enter(x, self.axis, self.stream)


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

    def __init__(
        self,
        in_size: int,
        out_size: int,
        axis: Axis,
        dtype: torch.dtype,
        *,
        stream: Axis = ALONE,
    ) -> None:
        super().__init__()
        assert in_size % axis.size == 0, (in_size, axis.size)
        self.axis = axis
        self.stream = stream
        self.weight = nn.Parameter(torch.empty(out_size, in_size // axis.size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_size, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map this rank's [B, T, in / tp] to its part of the stream, [B, T/stream, out]."""
        partial = F.linear(x, self.weight.to(x.dtype))
        return leave(partial, self.axis, self.stream) + self.bias.to(x.dtype)
