"""Gangs for tests, and undisturbed runs to compare with, one for each shape of a world."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.elastic.gang import Gang


@pytest.fixture
def make_gang(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes gangs in the test's folder, all in the same one, and ends them."""
    made: list[Gang] = []

    def make(**settings: Any) -> Gang:
        made.append(Gang(tmp_path, **settings))
        return made[-1]

    yield make
    for gang in made:
        gang.close()


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int, int], dict[str, np.ndarray]]:
    """The final tensors of a run in which nothing happened, by tensor-parallel size and ranks."""
    done: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    def reference(tensor_parallel: int, ranks: int) -> dict[str, np.ndarray]:
        key = (tensor_parallel, ranks)
        if key not in done:
            folder = tmp_path_factory.mktemp(f"undisturbed-{tensor_parallel}-{ranks}")
            with Gang(folder, tensor_parallel=tensor_parallel, processes=ranks) as gang:
                gang.start_store()
                gang.start("a")
                done[key] = gang.finish()
        return done[key]

    return reference
