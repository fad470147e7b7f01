"""``pangu generate --service``: what a model here would write, from a service, without torch."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pangu_core.entry import generate as command
from pangu_core.errors import ConfigError, RemoteError
from pangu_core.generation import text
from pangu_core.generation.settings import GenerationSettings
from tests.service.conftest import KEY

SHORT = ["--max-new-tokens", "20", "--seed", "3"]
RULES = GenerationSettings(max_new_tokens=20, seed=3)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The right key in the environment."""
    monkeypatch.setenv("PANGU_API_KEY", KEY)


def test_a_service_writes_what_the_model_here_writes(service, model, tokenizer, capsys):
    [expected] = text.generate(model, tokenizer, ["四川"], RULES)
    command.run(["--service", service.url, "--prompt", "四川", *SHORT])
    assert capsys.readouterr().out == f"{expected.text}\n"


def test_several_prompts_are_answered_in_order(service, model, tokenizer, capsys):
    prompts = ["四川", "hello", "四川", *"abcdef", *["四川"] * 8]  # more than go into one request
    expected = text.generate(model, tokenizer, prompts, RULES)
    flags = [flag for prompt in prompts for flag in ("--prompt", prompt)]
    command.run(["--service", f"{service.url}/v1/", *flags, "--json", *SHORT])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [
        (prompt, each.text) for prompt, each in zip(prompts, expected, strict=True)
    ]


def test_a_wrong_key_and_a_wrong_request_are_told_apart(service, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="must fit together into the model's 1024 positions"):
        command.run(["--service", service.url, "--prompt", "a", "--max-new-tokens", "2000"])
    wrong = tmp_path / "key"
    wrong.write_text("wrong\n")
    with pytest.raises(ConfigError, match="set PANGU_API_KEY"):
        command.run(["--service", service.url, "--prompt", "a", "--api-key-file", str(wrong)])


def test_a_key_file_counts_more_than_the_environment(service, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PANGU_API_KEY", "wrong")
    path = tmp_path / "key"
    path.write_text("another\n")
    command.run(["--service", service.url, "--prompt", "a", "--api-key-file", str(path), *SHORT])
    assert capsys.readouterr().out


def test_a_service_that_is_not_there_is_named():
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9: must answer"):
        command.run(["--service", "http://127.0.0.1:9", "--prompt", "a"])


@pytest.mark.parametrize("url", ["http://[bad", "http://host:abc", "http://a b", "host:80"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="must be an http address"):
        command.run(["--service", url, "--prompt", "a"])


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("PANGU_API_KEY", "secret\n")
    with pytest.raises(ConfigError, match="must be printable ASCII") as caught:
        command.run(["--service", "http://127.0.0.1:9", "--prompt", "a"])
    assert "secret" not in str(caught.value)


class Breaking(http.server.BaseHTTPRequestHandler):
    """A service that breaks off in the middle of an answer; below other paths, none at all."""

    def do_GET(self) -> None:
        if self.path == "/moved/v1/models":
            self.send_response(302)
            self.send_header("Location", "/v1/models")
            self.end_headers()
        elif self.path == "/v1/models":
            self.answer(b'{"data": [{"id": "m"}]}')
        else:
            self.answer(b"<html>" if self.path.startswith("/page") else b"[]")

    def do_POST(self) -> None:
        choice = b'{"index": 0, "text": "half", "finish_reason": null}'
        self.answer(b'data: {"choices": [' + choice + b"]}\n\n")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def breaking() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_answer_that_breaks_off_is_no_whole_one(breaking, capsys):
    with pytest.raises(RemoteError, match="broke off"):
        command.run(["--service", breaking, "--prompt", "a"])
    assert capsys.readouterr().out == "half"


@pytest.mark.parametrize("path", ["/page", "/list"])
def test_what_answers_in_another_way_is_no_service(breaking, path):
    with pytest.raises(RemoteError, match="not an answer of such a service"):
        command.run(["--service", breaking + path, "--prompt", "a"])


def test_a_key_is_not_taken_to_another_address(breaking):
    with pytest.raises(ConfigError, match="302"):
        command.run(["--service", f"{breaking}/moved", "--prompt", "a"])


def test_asking_a_service_never_loads_torch(service):
    program = (
        "import sys\n"
        "from pangu_core.entry.generate import run\n"
        f"run(['--service', {service.url!r}, '--prompt', 'a', '--max-new-tokens', '2'])\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
