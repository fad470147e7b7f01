"""A small model on disk, services as processes, and the real client."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import yaml

from pangu_core.data.tokenizer import Tokenizer
from pangu_core.generation.language_model import LanguageModel
from pangu_core.messages import Termination
from tests.core.generation.conftest import build_model, save, small_tokenizer

POSITIONS = 1024
KEY = "a key of this test"
NUM_PLACES, NUM_WAITING = 2, 10  # of the service that most tests share
START_SECONDS = 120
ENVIRONMENT = ("PANGU_API_KEYS", "PANGU_API_KEYS_FILE", "PANGU_CONFIG", "PANGU_WORKSPACE")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """A small vocabulary with bytes."""
    return small_tokenizer(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="session")
def model(tokenizer) -> LanguageModel:
    """A random network with many positions, so that texts can be long."""
    return build_model(tokenizer.vocab_size, sequence_length=POSITIONS)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, model, tokenizer) -> Path:
    """A folder with the model in runs/r/checkpoints."""
    root = tmp_path_factory.mktemp("workspace")
    save(root / "runs/r/checkpoints", model, tokenizer.path)
    return root


@dataclass
class Running:
    """A service that has been started."""

    process: "subprocess.Popen[str]"
    url: str
    folder: Path

    def client(self, key: str = KEY) -> openai.OpenAI:
        """OpenAI's own, that gives up at once."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """A metric by its name and labels; 0 where it is not there yet."""
        lines = self.get("/metrics")[1].splitlines()
        return next((float(x.split()[-1]) for x in lines if x.startswith(f"{name} ")), 0.0)

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has a value."""
        wait_until(lambda: self.metric(name) == value, f"{name} is not {value}")

    def terminate(self) -> None:
        """What a kubelet does."""
        self.process.send_signal(signal.SIGTERM)

    def termination(self) -> Termination | None:
        """The pod's last word."""
        return Termination.from_json((self.folder / "termination").read_text("utf-8"))


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    folder: Path, arguments: list[str], environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """A service in a process of its own, from its first answer on."""
    variables = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    variables |= {"OMP_NUM_THREADS": "1", "PANGU_TERMINATION_PATH": str(folder / "termination")}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pangu_core.entry.serve", *arguments],
            env=variables | (environment or {}),
            stderr=output,
            text=True,
        )
    try:
        wait_until(
            lambda: "serving at " in log.read_text() or process.poll() is not None,
            "the service does not start",
            START_SECONDS,
        )
        assert process.poll() is None, log.read_text()
        port = log.read_text().split("serving at http://")[1].split()[0].rpartition(":")[2]
        found = Running(process, f"http://127.0.0.1:{port}", folder)
        wait_until(lambda: _answers(found), "the service does not answer")
        yield found
    finally:
        process.kill()
        process.wait()


def _answers(service: Running) -> bool:
    try:
        return service.get("/livez")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def service(workspace, tmp_path_factory) -> Iterator[Running]:
    """A service that asks for keys, started by flags."""
    folder = tmp_path_factory.mktemp("service")
    keys = folder / "keys"
    keys.write_text(f"{KEY}\nanother\n")
    flags = ["--model", str(workspace / "runs/r/checkpoints"), "--name", "small", "--port", "0"]
    limits = ["--max-batch", str(NUM_PLACES), "--max-queue", str(NUM_WAITING)]
    with running(folder, [*flags, *limits, "--api-keys-file", str(keys)]) as found:
        yield found


@contextlib.contextmanager
def running_pod(workspace: Path, folder: Path, grace: int = 60, **settings) -> Iterator[Running]:
    """A service that is told everything by a config file, as a pod is."""
    config = folder / "config.yaml"
    values = {"name": "small", "model": "runs/r/checkpoints", "precision": "fp32", "port": 0}
    config.write_text(yaml.safe_dump(values | {"host": "127.0.0.1", **settings}))
    environment = {
        "PANGU_CONFIG": str(config),
        "PANGU_WORKSPACE": str(workspace),
        "PANGU_GRACE_SECONDS": str(grace),
    }
    with running(folder, [], environment) as service:
        yield service
