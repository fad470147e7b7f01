"""Initial weights, the same for every number of ranks, and whole tensors to a rank's part."""

import math
from collections.abc import Iterable, Iterator

import torch

from pangu_core import layout
from pangu_core.config.model import ModelConfig
from pangu_core.model.gpt import PanguModel
from pangu_core.parallel.rng import generator

Part = tuple[str, torch.Tensor, layout.Slice]  # name, the rows held here, their place


@torch.no_grad()
def initialise(model: PanguModel, seed: int) -> None:
    """Fill a network with fresh weights; padding rows become zero."""
    for parameter in model.parameters():
        parameter.zero_()
    draw_into(local_parts(model), model.config, seed)


@torch.no_grad()
def draw_into(parts: Iterable[Part], config: ModelConfig, seed: int) -> None:
    """Fill the held parts of a network's parameters with fresh weights.

    Each tensor is drawn whole from a generator of its own and then cut, so that the weights do
    not depend on the number of ranks. N(0, init_std); projections back into the residual stream
    are scaled by 1 / sqrt(2 L); biases 0, LayerNorm weights 1 (the original's scheme).
    """
    for name, held, part in parts:
        value = initial_value(name, config, seed)
        held.copy_(value[tuple(slice(start, stop) for start, stop in part)])


def initial_value(name: str, config: ModelConfig, seed: int) -> torch.Tensor:
    """The whole initial tensor of one parameter, float32 on the CPU."""
    shape = layout.parameter_shape(name, config)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    scaled = name.endswith(("attention.output.weight", "mlp.down.weight"))
    std = config.init_std / math.sqrt(2 * config.num_layers) if scaled else config.init_std
    draw = generator(torch.device("cpu"), seed, "initial", name)
    return torch.empty(shape).normal_(0.0, std, generator=draw)


def local_parts(model: PanguModel) -> Iterator[Part]:
    """Name, this rank's real rows (a view without padding) and their place in the whole."""
    for name, parameter in model.named_parameters():
        shape = layout.parameter_shape(name, model.config)
        part = layout.tensor_slice(name, shape, model.axis.rank, model.axis.size)
        real = tuple(slice(0, stop - start) for start, stop in part)
        yield name, parameter.detach()[real], part
