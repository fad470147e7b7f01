"""How tensors are cut: one table that model, sharder, merger and importers all read.

A slice is one (start, stop) per dimension of the whole tensor. The table maps a parameter to the
dimension that tensor parallelism cuts, or None where every rank holds all of it. Vocabulary
padding exists only in memory: bounds never reach past the true size. Must not import torch.
"""

from collections.abc import Iterator
from typing import Final

from pangu_core.config.model import ModelConfig

Slice = tuple[tuple[int, int], ...]
Shape = tuple[int, ...]

# The 16 tensors of a layer -> cut dimension. Linear weights are [out, in]: a column-parallel one
# is cut at its rows (dim 0), a row-parallel one at its columns (dim 1); its bias is stored once
# and added once, after the reduce.
LAYER_TABLE: Final[dict[str, int | None]] = {
    "ln1.weight": None,
    "ln1.bias": None,
    "attention.query.weight": 0,
    "attention.query.bias": 0,
    "attention.key.weight": 0,
    "attention.key.bias": 0,
    "attention.value.weight": 0,
    "attention.value.bias": 0,
    "attention.output.weight": 1,
    "attention.output.bias": None,
    "ln2.weight": None,
    "ln2.bias": None,
    "mlp.up.weight": 0,
    "mlp.up.bias": 0,
    "mlp.down.weight": 1,
    "mlp.down.bias": None,
}

TOP_TABLE: Final[dict[str, int | None]] = {
    "word_embedding.weight": 0,
    "position_embedding.weight": None,
    "query_embedding.weight": None,
    "ln_f.weight": None,
    "ln_f.bias": None,
}


def parameter_names(num_layers: int) -> Iterator[str]:
    """Every parameter in file order; the query layer is the last of ``num_layers``."""
    yield from ("word_embedding.weight", "position_embedding.weight", "query_embedding.weight")
    for index in range(num_layers - 1):
        yield from (f"layers.{index}.{name}" for name in LAYER_TABLE)
    yield from ("ln_f.weight", "ln_f.bias")
    yield from (f"query_layer.{name}" for name in LAYER_TABLE)


def cut_dim(name: str) -> int | None:
    """The dimension that tensor parallelism cuts, or None.

    Raises:
        KeyError: the name is no parameter of the model.
    """
    if name in TOP_TABLE:
        return TOP_TABLE[name]
    prefix, _, rest = name.partition(".")
    if prefix == "layers":
        rest = rest.partition(".")[2]
    elif prefix != "query_layer":
        raise KeyError(name)
    return LAYER_TABLE[rest]


def parameter_shape(name: str, model: ModelConfig) -> Shape:
    """Shape of the whole parameter, without padding."""
    h = model.hidden_size
    tables = {
        "word_embedding.weight": (model.vocab_size, h),
        "position_embedding.weight": (model.sequence_length, h),
        "query_embedding.weight": (model.sequence_length, h),
    }
    if name in tables:
        return tables[name]
    kind = ".".join(name.rsplit(".", 2)[-2:])
    shapes: dict[str, Shape] = {
        "up.weight": (4 * h, h),
        "up.bias": (4 * h,),
        "down.weight": (h, 4 * h),
    }
    if kind in shapes:
        return shapes[kind]
    is_matrix = name.endswith(".weight") and "ln" not in kind
    return (h, h) if is_matrix else (h,)


def parameter_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of every parameter, in file order."""
    return {name: parameter_shape(name, model) for name in parameter_names(model.num_layers)}


def shard_bounds(size: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """The half-open part of ``size`` rows that ``rank`` holds.

    Every rank gets ceil(size / num_ranks) rows but the last ones, which may get fewer or none;
    in memory they are padded to the full count.
    """
    rows = padded_rows(size, num_ranks)
    return min(rank * rows, size), min((rank + 1) * rows, size)


def padded_rows(size: int, num_ranks: int) -> int:
    """Rows each rank allocates: ceil(size / num_ranks)."""
    return -(-size // num_ranks)


def whole(shape: Shape) -> Slice:
    """The slice that covers all of a tensor."""
    return tuple((0, size) for size in shape)


def tensor_slice(name: str, shape: Shape, rank: int, num_ranks: int) -> Slice:
    """The part of a whole parameter that one tensor-parallel rank holds."""
    dim = cut_dim(name)
    bounds = list(whole(shape))
    if dim is not None:
        bounds[dim] = shard_bounds(shape[dim], rank, num_ranks)
    return tuple(bounds)


def intersect(a: Slice, b: Slice) -> Slice | None:
    """The common part of two slices of one tensor, or None."""
    both = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return both if all(start < stop for start, stop in both) else None


def relative(part: Slice, to: Slice) -> tuple[slice, ...]:
    """Index of ``part`` inside an array that holds the slice ``to``."""
    return tuple(slice(p[0] - t[0], p[1] - t[0]) for p, t in zip(part, to, strict=True))


def num_elements(part: Slice) -> int:
    """Elements in a slice."""
    count = 1
    for start, stop in part:
        count *= stop - start
    return count
