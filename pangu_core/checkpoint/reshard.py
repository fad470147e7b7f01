"""Which part of a parameter each rank holds and stores. Pure arithmetic on slices.

First the tensor axis cuts, then the data axis: the rows of the rank's local tensor, padding
included, are dealt in chunks of ceil(rows / dp), as FSDP does, so late ranks may hold fewer rows or
none. Slices are in the coordinates of the whole tensor and never reach into padding.
"""

from pangu_core.layout import Shape, Slice, cut_dim, padded_rows, tensor_slice


def held_part(
    name: str, shape: Shape, tp: int, tp_rank: int, dp: int, dp_rank: int
) -> Slice | None:
    """The real elements that a rank has in memory; None if it has only padding or nothing.

    ``shape`` is the whole parameter's. What the tensor axis does not cut, each of its ranks holds.
    """
    dim = cut_dim(name)
    bounds = list(tensor_slice(name, shape, tp_rank, tp))
    origin, rows = 0, shape[0]
    if dim == 0:
        rows = padded_rows(shape[0], tp)
        origin = tp_rank * rows
    chunk = padded_rows(rows, dp)
    start, stop = bounds[0]
    first = origin + dp_rank * chunk
    bounds[0] = (max(start, first), min(stop, first + chunk))
    is_empty = any(a >= b for a, b in bounds)
    return None if is_empty else tuple(bounds)


def stored_parts(
    name: str, shape: Shape, tp: int, tp_rank: int, dp: int, dp_rank: int
) -> Slice | None:
    """The part that a rank writes into a checkpoint; None if it writes nothing.

    As ``held_part``, but what all tensor ranks hold alike is written by the first of them.
    """
    if cut_dim(name) is None and tp_rank > 0:
        return None
    return held_part(name, shape, tp, tp_rank, dp, dp_rank)
