"""One pool of ranks for the whole session."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ranks() -> Iterator[Any]:
    pool = _module().RankPool()
    yield pool
    pool.close()


def _module() -> Any:
    """The pool's module under a name that the forked processes can import too."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("ranks")
