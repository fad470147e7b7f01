"""Spreads a model over the data axis and lists what this rank owns of every parameter.

torch's FSDP2 moves the data; the optimizer, the norm and the checkpoint work on plain local
tensors with known global slices, so they are the same with and without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pangu_core import layout
from pangu_core.checkpoint.reshard import held_part
from pangu_core.dist import Axis, Topology
from pangu_core.model.gpt import PanguModel
from pangu_core.parallel.collectives import all_reduce


@dataclass(frozen=True)
class OwnedParameter:
    """This rank's part of one parameter.

    Attributes:
        name: as in ``layout.parameter_names``.
        shape: of the whole tensor.
        part: the real rows held here, in whole coordinates; None if there are none.
        source: the model's own parameter (a DTensor where the data axis is sharded).
        local: the plain tensor that the optimizer trains; shares memory with ``source``.
        is_counted: False on the ranks whose copy is a repetition of tensor rank 0's; such a
            copy enters neither norms nor checkpoints.
        is_partial: True where the gradient covers this tensor rank's part of the sequence only,
            and the ranks' must be summed.
    """

    name: str
    shape: layout.Shape
    part: layout.Slice | None
    source: nn.Parameter
    local: nn.Parameter
    is_counted: bool
    is_partial: bool

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of a tensor of ``local``'s shape that are no padding (a view)."""
        assert self.part is not None
        return tensor[tuple(slice(0, stop - start) for start, stop in self.part)]

    def adopt_gradient(self) -> None:
        """Hand the model's reduced gradient to the tensor that the optimizer trains."""
        self.local.grad = None if self.source.grad is None else _plain(self.source.grad)


def shard(model: PanguModel, place: Topology) -> list[OwnedParameter]:
    """Spread the model over the data axis, if that has more than one rank.

    Gradients are summed over the axis, never averaged: the loss is already divided by the
    global token count.
    """
    if place.dp.size > 1:
        _spread(model, place)
    return [_owned(name, parameter, model, place) for name, parameter in model.named_parameters()]


def set_gradient_sync(model: PanguModel, enabled: bool) -> None:
    """Reduce gradients over the data axis after the next backward pass, or only add them up."""
    spread: Any = model
    if hasattr(spread, "set_requires_gradient_sync"):  # what FSDP2 makes of the module's class
        spread.set_requires_gradient_sync(enabled)
        spread.set_is_last_backward(enabled)


def forget_gradients(parameters: Sequence[OwnedParameter]) -> None:
    """Drop all gradients, before the first micro-batch of a step."""
    for owned in parameters:
        owned.source.grad = None
        owned.local.grad = None


def adopt_gradients(parameters: Sequence[OwnedParameter], tensor_axis: Axis) -> None:
    """Hand the model's gradients to the tensors that the optimizer trains.

    Called once a step, after the last micro-batch: here partial gradients are made whole, in one
    reduction over the tensor axis.
    """
    for owned in parameters:
        owned.adopt_gradient()
    partial = [owned.local.grad for owned in parameters if owned.is_partial]
    grads = [grad for grad in partial if grad is not None]
    if grads:
        joined = all_reduce(torch.cat([grad.flatten() for grad in grads]), tensor_axis)
        sums = joined.split([grad.numel() for grad in grads])
        for grad, total in zip(grads, sums, strict=True):
            grad.copy_(total.view_as(grad))


def _spread(model: PanguModel, place: Topology) -> None:
    # Two seconds of imports: a rank without a data axis starts, and recovers, without them.
    from torch.distributed.fsdp import FSDPModule, fully_shard

    assert place.mesh is not None
    for module in (*model.layers, model.query_layer, model):
        fully_shard(module, mesh=place.mesh["dp"])
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Without it fp32 takes a reduction that gloo does not have.
            module.set_force_sum_reduction_for_comms(True)


def _plain(tensor: Any) -> torch.Tensor:
    """The local part of a distributed tensor; a plain one as it is."""
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _owned(
    name: str, parameter: nn.Parameter, model: PanguModel, place: Topology
) -> OwnedParameter:
    shape = layout.parameter_shape(name, model.config)
    is_cut = layout.cut_dim(name) is not None
    tp_rank = place.tp.rank if is_cut else 0
    part = held_part(name, shape, place.tp.size, tp_rank, place.dp.size, place.dp.rank)
    local = nn.Parameter(_plain(parameter.detach())) if place.dp.size > 1 else parameter
    return OwnedParameter(
        name=name,
        shape=shape,
        part=part,
        source=parameter,
        local=local,
        is_counted=is_cut or place.tp.rank == 0,
        # What every tensor rank holds whole stands between the regions, and so works on the
        # rank's part of a spread stream.
        is_partial=not is_cut and model.stream.size > 1,
    )
