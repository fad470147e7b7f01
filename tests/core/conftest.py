"""A small network's tensors, cut into the pieces of any layout, and ranks as threads."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Header, Layout, key_of
from pangu_core.checkpoint.reshard import stored_parts
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.layout import parameter_shapes, relative, whole

# 13 rows of vocabulary divide by nothing; 8 heads go to up to 8 tensor ranks.
WHOLE = Layout()
SMALL = ModelConfig(num_layers=2, hidden_size=8, num_heads=8, vocab_size=13, sequence_length=5)


def whole_tensors(seed: int = 0, *, optimizer: bool = True) -> dict[str, torch.Tensor]:
    """Every tensor of the small network by its key."""
    generator = torch.Generator().manual_seed(seed)
    groups = (MODEL, *MOMENTS) if optimizer else (MODEL,)
    return {
        key_of(group, name): torch.randn(shape, generator=generator)
        for group in groups
        for name, shape in parameter_shapes(SMALL).items()
    }


def pieces_of(
    tensors: Mapping[str, torch.Tensor], layout: Layout, tp_rank: int = 0, dp_rank: int = 0
) -> list[Piece]:
    """What one rank of a layout stores."""
    pieces = []
    for key, tensor in tensors.items():
        name, shape = key.partition("/")[2], tuple(tensor.shape)
        part = stored_parts(name, shape, layout.tp, tp_rank, layout.dp, dp_rank)
        if part is not None:
            pieces.append(Piece(key, shape, part, tensor[relative(part, whole(shape))]))
    return pieces


def header_of(layout: Layout = WHOLE, *, attempt: int = 1, **more: Any) -> Header:
    """A header of run r1."""
    run = RunIdentity(name="small", uid="r1", attempt=attempt)
    return Header(model=SMALL, run=run, layout=layout, **more)


def run_ranks(num_ranks: int, work: Callable[..., Any]) -> list[Any]:
    """Call ``work(rank, gather)`` in a thread per rank; an exception becomes its result."""
    barrier, values = threading.Barrier(num_ranks, timeout=120), [None] * num_ranks

    def one(rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            values[rank] = value
            barrier.wait()
            result = list(values)
            barrier.wait()
            return result

        try:
            return work(rank, gather)
        except Exception as error:
            return error

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(one, range(num_ranks)))


def save_as(store: Any, step: int, tensors: Mapping[str, torch.Tensor], layout: Layout) -> Any:
    """Save with every rank of a layout; returns the results of the ranks."""
    places = list(product(range(layout.dp), range(layout.tp)))

    def one(rank: int, gather: Any) -> Any:
        dp_rank, tp_rank = places[rank]
        pieces = pieces_of(tensors, layout, tp_rank, dp_rank)
        return store.save(step, pieces, header_of(layout), gather=gather, rank=rank)

    return run_ranks(len(places), one)


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The functions above, for tests that save and load checkpoints."""
    return SimpleNamespace(
        model=SMALL,
        tensors=whole_tensors,
        pieces=pieces_of,
        header=header_of,
        ranks=run_ranks,
        save_as=save_as,
    )
