"""Where tests find what is not in the repository: shared test vectors and fetched data."""

import os
from pathlib import Path

import pytest

from pangu_core.data.vocabulary import cache_folder

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder of test vectors: ``PANGU_SHARED``, else beside the checkout."""
    folder = Path(os.environ.get("PANGU_SHARED") or CHECKOUT.parent / "shared")
    if not (folder / "golden").is_dir():
        pytest.skip(f"no shared folder with test vectors at {folder}; name it in PANGU_SHARED")
    return folder


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with vocab.model, peoples_daily.txt, pos.txt and neg.txt."""
    folder = cache_folder()
    names = ("vocab.model", "peoples_daily.txt", "pos.txt", "neg.txt")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"{folder} lacks {', '.join(missing)}; run python tools/fetch_data.py")
    return folder
