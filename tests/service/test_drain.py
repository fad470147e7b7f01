"""The end of a pod: nobody's answer is lost while there is time."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

from pangu_core.errors import EXIT_STOPPED
from tests.service.conftest import POSITIONS, Running, running_pod, wait_until

# Several hundred tokens each.
LONG = {"model": "small", "prompt": "四川", "max_tokens": POSITIONS - 40, "n": 16, "stream": True}
SHORT = {"model": "small", "prompt": "a", "max_tokens": 1}


def short(service: Running) -> int:
    """Status of a request for one token."""
    try:
        service.client().completions.create(**SHORT)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


@contextlib.contextmanager
def half_sent(service: Running) -> Iterator[Callable[[], int]]:
    """A request that has begun to arrive; the call sends the rest and returns the status."""
    body = json.dumps(SHORT).encode()
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:5])

    def finish() -> int:
        connection.send(body[5:])
        return connection.getresponse().status

    with contextlib.closing(connection):
        yield finish


@contextlib.contextmanager
def idle_connection(service: Running) -> Iterator[socket.socket]:
    """A connection that a client keeps for its next request."""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/livez")
        connection.getresponse().read()
        assert connection.sock is not None
        yield connection.sock


def test_sigterm_turns_traffic_away_first_and_lets_what_runs_end(workspace, tmp_path):
    settings = {"maxBatch": 4, "maxQueue": 40, "drainDelaySeconds": 4.0}
    with (
        running_pod(workspace, tmp_path, **settings) as service,
        half_sent(service) as finish,
        idle_connection(service) as idle,
        ThreadPoolExecutor(1) as pool,
    ):
        stream = service.client().completions.create(**LONG)
        next(stream)
        reading = pool.submit(lambda: [chunk.choices[0].finish_reason for chunk in stream])
        service.terminate()
        wait_until(lambda: service.get("/readyz") == (503, "draining\n"), "still ready")
        # A router may not know yet, but the client's next request is to find another pod.
        late = service.client().completions.with_raw_response.create(**SHORT)
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        wait_until(lambda: short(service) == 503, "still open")
        assert service.get("/livez")[0] == 200
        assert idle.recv(1) == b""  # closed
        assert finish() == 200
        assert sum(reason is not None for reason in reading.result()) == 16
        assert service.process.wait(20) == 0
        assert service.termination().code == 0


def test_what_the_grace_period_is_too_short_for_ends_with_an_error(workspace, tmp_path):
    settings = {"maxBatch": 1, "maxQueue": 40, "drainDelaySeconds": 0.0}
    with running_pod(workspace, tmp_path, grace=4, **settings) as service:
        stream = service.client().completions.create(**LONG)
        next(stream)
        service.terminate()
        began = time.monotonic()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert service.process.wait(20) == EXIT_STOPPED
        assert time.monotonic() - began < 20
        assert "grace" in service.termination().message


def test_a_pod_that_asks_for_several_gpus_ends_at_once(workspace, tmp_path):
    pod = running_pod(workspace, tmp_path, tensorParallel=2)
    with pytest.raises(AssertionError, match="tensorParallel: 2"), pod:
        pass
