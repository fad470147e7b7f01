"""The end of a pod: nobody's answer is lost while there is time."""

import threading
import time

import openai
import pytest

from pangu_core.errors import EXIT_STOPPED
from tests.service.conftest import POSITIONS, Running, running_pod, wait_until

# One after the other, several hundred tokens each.
LONG = {"model": "small", "prompt": "四川", "max_tokens": POSITIONS - 40, "n": 16, "stream": True}


def short(service: Running) -> int:
    """Status of a request for one token."""
    try:
        service.client().completions.create(model="small", prompt="a", max_tokens=1)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def read_all(stream, reasons: list) -> None:
    for chunk in stream:
        reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]


def test_sigterm_turns_traffic_away_first_and_lets_what_runs_end(workspace, tmp_path):
    settings = {"maxBatch": 1, "maxQueue": 40, "drainDelaySeconds": 1.0}
    with running_pod(workspace, tmp_path, **settings) as service:
        stream = service.client().completions.create(**LONG)
        next(stream)
        reasons: list[str] = []
        reader = threading.Thread(target=read_all, args=(stream, reasons))
        reader.start()
        service.terminate()
        wait_until(lambda: service.get("/readyz") == (503, "draining\n"), "still ready", 1)
        late = threading.Thread(target=short, args=(service,))
        late.start()
        wait_until(lambda: service.metric("pangu_serve_queue_depth") == 16, "not taken on", 1)
        time.sleep(1)
        assert short(service) == 503
        assert service.get("/livez")[0] == 200
        reader.join()
        late.join()
        assert len(reasons) == 16
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
