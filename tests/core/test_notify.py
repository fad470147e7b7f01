"""The pod that calls a webhook, against a real HTTP server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pangu_core.config.stages import NotifyConfig
from pangu_core.entry.notify import WAITS_SECONDS, call
from pangu_core.errors import RemoteError


class Receiver:
    """Answers POSTs with the codes it was given, the last one for ever."""

    def __init__(self, *codes):
        self.codes, self.calls = list(codes), []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers["Content-Length"])
                receiver.calls.append((dict(self.headers), self.rfile.read(size)))
                code = receiver.codes.pop(0) if len(receiver.codes) > 1 else receiver.codes[0]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def config(self):
        url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        return NotifyConfig(url=url, body=json.dumps({"phase": "Complete"}), key="u-1")


@pytest.fixture
def receive():
    made = []

    def start(*codes):
        made.append(Receiver(*codes))
        return made[-1]

    yield start
    for each in made:
        each.server.shutdown()
        each.server.server_close()


def test_the_body_and_the_token_arrive(receive):
    receiver = receive(204)
    assert call(receiver.config, token="secret").code == 0
    ((headers, body),) = receiver.calls
    assert json.loads(body) == {"phase": "Complete"}
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Idempotency-Key"] == "u-1"


def test_without_a_secret_there_is_no_token(receive):
    receiver = receive(200)
    call(receiver.config, token=None)
    assert "Authorization" not in receiver.calls[0][0]


def test_a_receiver_that_is_busy_is_asked_again(receive):
    receiver, waits = receive(503, 429, 200), []
    assert call(receiver.config, token=None, wait=waits.append).code == 0
    assert (len(receiver.calls), waits) == (3, [1.0, 4.0])


@pytest.mark.parametrize(("code", "tries"), [(500, 5), (401, 1), (302, 1)])
def test_tries_are_bounded_and_a_refusal_is_final(receive, code, tries):
    receiver, waits = receive(code), []
    with pytest.raises(RemoteError, match=f"HTTP {code}"):
        call(receiver.config, token="secret", wait=waits.append)
    assert len(receiver.calls) == tries
    assert waits == list(WAITS_SECONDS[: tries - 1])


def test_an_address_where_nobody_listens_is_named():
    config = NotifyConfig(url="http://127.0.0.1:9/hook", body="{}", key="u-1")
    with pytest.raises(RemoteError, match=r"^notify\.url: "):
        call(config, token=None, wait=lambda _: None)
