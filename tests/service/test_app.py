"""The application without a socket, over an engine that does what a test tells it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from pangu_core.errors import CheckpointError
from pangu_core.service.app import MAX_BODY_BYTES, Service
from pangu_core.service.engine import Failure, Stats, Token
from pangu_core.service.health import Health
from pangu_core.service.keys import Keyring
from pangu_core.service.writing import Served

BROKEN = CheckpointError("scores", seen="nan", rule="must be finite", fix="check the weights")


class ScriptedEngine:
    """Answers each row at once with what ``say`` gives, or not at all."""

    places, capacity = 2, 4

    def __init__(self) -> None:
        self.now = Stats()
        self.say: Callable[[int], list] = lambda row: [Token(row, 30), Token(row, 9)]
        self.aborted: list[int] = []
        self.num_requests = 0

    def submit(self, rows, deliver):
        self.num_requests += 1
        for index, _ in enumerate(rows):
            for event in self.say(index):
                deliver(event)
        return self.num_requests

    def abort(self, request, rows=None):
        self.aborted.append(request)

    def stats(self):
        return self.now

    def stop(self):
        pass


class Site:
    """A service and its parts."""

    def __init__(self, tokenizer) -> None:
        self.engine = ScriptedEngine()
        served = Served("small", self.engine, tokenizer, tokenizer.vocab_size, 64, 0)
        self.health = Health(served, stall_seconds=60)
        self.service = Service(served, self.health, Keyring())

    def ask(self, method: str, path: str, **values) -> httpx.Response:
        """One request."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.service.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, **values)

        return asyncio.run(send())

    def complete(self, **values) -> httpx.Response:
        """A completion."""
        body = {"model": "small", "prompt": "a", **values}
        return self.ask("POST", "/v1/completions", content=json.dumps(body))


@pytest.fixture
def site(tokenizer) -> Site:
    return Site(tokenizer)


def test_ready_means_that_a_token_was_made_for_the_asking(site):
    assert site.ask("GET", "/readyz").text == "ok\n"
    assert site.engine.num_requests == 1


def test_a_token_made_a_moment_ago_is_proof_enough(site):
    site.engine.now = Stats(num_tokens=5, idle_seconds=3)
    assert site.ask("GET", "/readyz").status_code == 200
    assert site.engine.num_requests == 0
    site.engine.now = Stats(num_tokens=5, idle_seconds=11)
    assert site.ask("GET", "/readyz").status_code == 200
    assert site.engine.num_requests == 1


def test_no_token_in_time_is_not_ready_but_alive(site, monkeypatch):
    monkeypatch.setattr("pangu_core.service.health.PROBE_SECONDS", 0.05)
    site.engine.say = lambda row: []
    answer = site.ask("GET", "/readyz")
    assert (answer.status_code, answer.text) == (503, "no token within 0 s\n")
    assert site.engine.aborted == [1]
    assert site.ask("GET", "/livez").status_code == 200


def test_a_model_whose_scores_are_no_numbers_is_not_ready(site):
    site.engine.say = lambda row: [Failure(row, BROKEN)]
    assert "must be finite" in site.ask("GET", "/readyz").text


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        (Stats(num_tokens=5, running=1, idle_seconds=61, stalled_seconds=61), "no token for 61 s"),
        (Stats(num_tokens=5, error=RuntimeError("gone")), "the engine has ended: gone"),
    ],
)
def test_what_only_a_restart_cures_fails_both_probes(site, stats, words):
    site.engine.now = stats
    for path in ("/readyz", "/livez"):
        answer = site.ask("GET", path)
        assert answer.status_code == 503
        assert words in answer.text


def test_a_draining_service_is_not_ready_still_alive_and_answers_until_it_closes(site):
    site.health.draining = True
    assert site.ask("GET", "/readyz").text == "draining\n"
    assert site.ask("GET", "/livez").status_code == 200
    assert site.complete().status_code == 200
    site.health.closed = True
    answer = site.complete()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "shutting_down"


def test_a_failure_of_the_model_is_an_error_whole_and_in_a_stream(site):
    site.engine.say = lambda row: [Token(row, 30), Failure(row, BROKEN)]
    answer = site.complete()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    lines = site.complete(stream=True).text.splitlines()
    last = json.loads(lines[-2].removeprefix("data: "))
    assert "must be finite" in last["error"]["message"]
    metrics = site.ask("GET", "/metrics").text
    assert 'pangu_serve_requests_total{status="500"} 2.0' in metrics


def test_the_end_mark_is_neither_shown_nor_counted(site):
    answer = site.complete().json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 1


def test_a_row_that_a_stop_string_ended_is_taken_from_the_engine(site, tokenizer):
    ids = tokenizer.encode("hello")
    site.engine.say = lambda row: [Token(row, each) for each in ids] + [Token(row, 9)]
    answer = site.complete(stop="l").json()
    assert answer["choices"][0]["text"] == "he"
    assert 1 in site.engine.aborted


def test_half_a_surrogate_pair_does_no_harm(site):
    assert site.complete(prompt="a\ud800", echo=True).status_code == 200
    assert site.complete(model="\ud800").status_code == 404
    assert site.complete(stop="\ud800").status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"seed": 1' + b"0" * 5000 + b"}", 400),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_a_body_that_is_no_json_or_too_long_is_refused(site, body, status):
    answer = site.ask("POST", "/v1/completions", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_client_that_leaves_while_it_sends_is_no_failure_of_ours(site):
    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    asyncio.run(site.service.app(scope, receive, send))
    metrics = site.ask("GET", "/metrics").text
    assert 'pangu_serve_requests_total{status="499"} 1.0' in metrics


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/livez", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_the_same_form(site, method, path, status):
    answer = site.ask(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


def test_a_bug_of_ours_tells_nothing_of_the_inside(site, monkeypatch):
    monkeypatch.setattr(site.engine, "stats", lambda: 1 / 0)
    answer = site.ask("GET", "/livez")
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")


def test_the_depth_of_the_queue_is_a_metric(site):
    site.engine.now = replace(site.engine.now, waiting=7, running=2)
    metrics = site.ask("GET", "/metrics").text
    assert "pangu_serve_queue_depth 7.0" in metrics
    assert "pangu_serve_running 2.0" in metrics
