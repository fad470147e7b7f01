"""What tests share: where vectors and data are, and which tiers this machine can run."""

import importlib.util
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu_core.data.vocabulary import cache_folder
from tests.cluster import binaries

CHECKOUT = Path(__file__).parents[1]
CORPORA = ("vocab.model", "peoples_daily.txt", "pos.txt", "neg.txt")
# A real HTTP S3 service; it ends when its standard input does.
S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
if importlib.util.find_spec("hypothesis"):  # not on a machine that runs the GPU's tests alone
    from hypothesis import HealthCheck, settings

    # A busy machine is slow at drawing examples, which says nothing about what is tested.
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")
NOT_RUN = pytest.StashKey[dict[str, tuple[int, str]]]()


def shared_folder() -> Path:
    """The shared folder of test vectors: ``PANGU_SHARED``, else beside the checkout."""
    return Path(os.environ.get("PANGU_SHARED") or CHECKOUT.parent / "shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder of test vectors; a test that uses it is of tier ``shared``."""
    return shared_folder()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with the vocabulary and the corpora; their users are of tier ``corpora``."""
    return cache_folder()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 service on this machine, in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-c", S3_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:
        assert server.stdout
        assert server.stdin
        port = next(line.split()[1] for line in server.stdout if line.startswith("port "))
        yield f"http://127.0.0.1:{port}"
        server.stdin.close()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a fresh bucket; credentials and endpoint are in the environment."""
    settings = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    import fsspec  # slow, and few tests use it

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


def missing_tiers() -> dict[str, str]:
    """Tier -> why its tests cannot run on this machine."""
    missing = {}
    if not (shared_folder() / "golden").is_dir():
        missing["shared"] = f"no shared folder of test vectors at {shared_folder()}"
    absent = [name for name in CORPORA if not (cache_folder() / name).is_file()]
    if absent:
        missing["corpora"] = f"{cache_folder()} lacks {', '.join(absent)}; run tools/fetch_data.py"
    if not _has_cuda():
        missing["gpu"] = "no CUDA device"
    if reason := binaries.missing():
        missing["control_plane"] = reason
        if not os.environ.get("KUBECONFIG"):
            missing["cluster"] = reason
    return missing


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out the tests of tiers that this machine lacks, and count them for the summary."""
    reasons = missing_tiers()
    not_run: dict[str, tuple[int, str]] = {}
    kept, dropped = [], []
    for item in items:
        tier = next((tier for tier in reasons if _belongs(item, tier)), None)
        if tier is None:
            kept.append(item)
        else:
            dropped.append(item)
            not_run[tier] = (not_run.get(tier, (0, ""))[0] + 1, reasons[tier])
    config.stash[NOT_RUN] = not_run
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which tiers were not run and why."""
    for tier, (count, reason) in config.stash.get(NOT_RUN, {}).items():
        terminalreporter.write_line(f"NOT RUN: tier {tier}, {count} tests: {reason}", yellow=True)


def _belongs(item: pytest.Item, tier: str) -> bool:
    """A test is of a tier by its mark or by the fixture that it uses, however deep."""
    return item.get_closest_marker(tier) is not None or tier in getattr(item, "fixturenames", ())


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    return Path("/dev/nvidia0").exists()
