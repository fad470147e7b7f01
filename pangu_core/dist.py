"""Which rank this is, its two axes (tensor and data), and process groups from birth to end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pangu_core.errors import ConfigError

T = TypeVar("T")

# A collective that waits this long has lost a peer. The launcher notices sooner, by heartbeat.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Axis:
    """One direction of the grid of ranks; ``group`` is None where it has a single rank."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def group_name(self) -> str:
        """What the functional collectives know the group by."""
        assert self.group is not None
        name: str = self.group.group_name
        return name


ALONE = Axis()


@dataclass(frozen=True)
class Topology:
    """This rank's place: rank = dp.rank * tp.size + tp.rank, so tensor groups are neighbours."""

    rank: int
    world_size: int
    tp: Axis
    dp: Axis
    device: torch.device
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """The one rank that writes what is written once."""
        return self.rank == 0


def alone(device: str | torch.device = "cpu") -> Topology:
    """The topology of one process without process groups."""
    return Topology(0, 1, ALONE, ALONE, torch.device(device))


def topology(tensor_parallel: int) -> Topology:
    """The grid of an initialised process group (or of one process without any).

    Raises:
        ConfigError: the world does not hold whole tensor-parallel groups.
    """
    if not dist.is_initialized():
        return alone(_device())
    rank, world = dist.get_rank(), dist.get_world_size()
    if world % tensor_parallel:
        raise ConfigError(
            "world size",
            seen=world,
            rule=f"must be a multiple of train.tensorParallel ({tensor_parallel})",
            fix="start whole tensor-parallel groups",
        )
    device = _device()
    mesh = init_device_mesh(
        device.type, (world // tensor_parallel, tensor_parallel), mesh_dim_names=("dp", "tp")
    )
    return Topology(
        rank=rank,
        world_size=world,
        tp=_axis(mesh, "tp"),
        dp=_axis(mesh, "dp"),
        device=device,
        mesh=mesh,
    )


@contextmanager
def process_group() -> Iterator[None]:
    """Initialise from the launcher's environment, and end with barrier and destroy.

    On an error the group is left as it is: peers may be gone, and a barrier would hang.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=COLLECTIVE_TIMEOUT)
    yield
    dist.barrier()
    dist.destroy_process_group()


def sum_over_world(values: list[float], place: Topology) -> list[float]:
    """Element-wise sum over all ranks, in float64."""
    if place.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=place.device)
    dist.all_reduce(tensor)
    return [float(x) for x in tensor.tolist()]


def gather_over_world(value: T, place: Topology) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if place.world_size == 1:
        return [value]
    values: list[T | None] = [None] * place.world_size
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of a collective means that another rank or its store went away."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _axis(mesh: DeviceMesh, name: str) -> Axis:
    size = mesh[name].size()
    group = mesh.get_group(name) if size > 1 else None
    return Axis(mesh.get_local_rank(name), size, group)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
