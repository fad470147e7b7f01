"""``pangu cp`` against a stand-in for the exec endpoint: the commands run here, over the same frames."""

import contextlib
import io
import json
import subprocess
import tarfile
from pathlib import PurePosixPath

import pytest
from websocket import WebSocketConnectionClosedException

from controller import copy_command
from controller.archive import differences, pack, parse_sizes, sizes_of, unpack
from controller.cli import main
from controller.cluster.api import ApiError
from controller.cluster.execution import CLOSE, RESULT, STDERR, STDIN, STDOUT, Execution
from controller.copy_command import parse, why_not_running
from pangu_core.errors import ConfigError

BINARY, HANG_UP = 2, 8


class Pod:
    """The far end of one websocket: a process here, its /workspace a folder of the test."""

    def __init__(self, command, workspace):
        here = [word.replace("/workspace", str(workspace)) for word in command]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(here, stdin=pipe, stdout=pipe, stderr=pipe)
        self.frames = self._frames()

    def send_binary(self, payload):
        if payload == bytes([CLOSE, STDIN]):
            self.process.stdin.close()
            return
        assert payload[0] == STDIN
        try:
            self.process.stdin.write(payload[1:])
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WebSocketConnectionClosedException("gone") from None

    def recv_data(self):
        return next(self.frames)

    def close(self):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _frames(self):
        while data := self.process.stdout.read1(1000):
            yield BINARY, bytes([STDOUT]) + data
        yield BINARY, bytes([STDERR]) + self.process.stderr.read()
        code = self.process.wait()
        status = {"status": "Failure", "message": f"exit {code}"} if code else {"status": "Success"}
        yield BINARY, bytes([RESULT]) + json.dumps(status).encode()


class Api:
    """Pods that run at once, and whose commands work on a folder."""

    namespace = "research"

    def __init__(self, workspace):
        self.workspace, self.pods, self.asked = workspace, {}, []

    def create(self, kind, manifest, namespace):
        self.pods[manifest["metadata"]["name"]] = manifest

    def get(self, kind, namespace, name):
        return {"status": {"phase": "Running"}}

    def delete(self, kind, namespace, name, grace_seconds):
        del self.pods[name]

    def websocket(self, path, query):
        assert path.endswith("/exec")
        assert len(self.pods) == 1
        self.asked += self.pods.values()
        return Pod([word for key, word in query if key == "command"], self.workspace)

    def close(self):
        pass


@pytest.fixture
def api(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    made = Api(tmp_path / "far")
    monkeypatch.setattr("controller.cluster.access.Api.connect", lambda **_: made)
    return made


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a b.txt").write_text("one\n")
    (folder / "deep" / "新闻.txt").write_text("二\n" * 400_000)
    (folder / "empty").touch()
    return folder


def test_a_folder_goes_up_and_comes_back_the_same(api, corpus, tmp_path, capsys):
    assert main(["cp", "-w", "work", str(corpus), "workspace:data/new"]) == 0
    assert "3 files, 1,600,004 bytes" in capsys.readouterr().out
    assert (api.workspace / "data/new/a b.txt").read_text() == "one\n"
    assert main(["cp", "-w", "work", "workspace:data/new", str(tmp_path / "back")]) == 0
    assert sizes_of(tmp_path / "back") == sizes_of(corpus)
    assert (tmp_path / "back/deep/新闻.txt").read_text() == "二\n" * 400_000


def test_a_file_goes_up_under_its_own_name_or_another(api, corpus, tmp_path):
    source = str(corpus / "a b.txt")
    assert main(["cp", "-w", "work", source, "workspace:texts/"]) == 0
    assert main(["cp", "-w", "work", source, "workspace:other.txt"]) == 0
    assert sizes_of(api.workspace) == {"texts/a b.txt": 4, "other.txt": 4}
    assert main(["cp", "-w", "work", "workspace:texts/a b.txt", f"{tmp_path}/down/"]) == 0
    assert (tmp_path / "down/a b.txt").read_text() == "one\n"


def test_the_pod_mounts_the_claim_and_is_gone_afterwards(api, corpus):
    assert main(["cp", "-w", "work", str(corpus), "workspace:c", "--image", "mine:1"]) == 0
    assert api.pods == {}
    spec = api.asked[0]["spec"]
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "work"}
    assert spec["containers"][0]["image"] == "mine:1"
    assert spec["securityContext"]["runAsNonRoot"]


def test_what_the_command_complains_about_is_the_error_and_the_pod_goes_too(api, tmp_path, capsys):
    assert main(["cp", "-w", "work", "workspace:nothing", str(tmp_path / "x")]) == 1
    assert "nothing" in capsys.readouterr().err
    assert api.pods == {}


def test_a_workspace_that_cannot_be_written_says_so(api, corpus, capsys):
    (api.workspace / "file").touch()
    assert main(["cp", "-w", "work", str(corpus), "workspace:file/below/c"]) == 1
    assert "file" in capsys.readouterr().err


def test_a_copy_of_another_size_is_found():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 3 instead of 2 bytes"]
    assert differences({"": 2}, {}) == ["the file: no instead of 2 bytes"]
    assert parse_sizes(b"3 a b\x0012 c\nd\x00") == {"a b": 3, "c\nd": 12}


@pytest.mark.parametrize(
    ("source", "target", "local", "remote", "is_upload"),
    [
        ("a", "workspace:b", "a", "b", True),
        ("x/a", "workspace:b/", "x/a", "b/a", True),
        ("x/a", "workspace:", "x/a", "a", True),
        ("workspace:b/c", "a", "a", "b/c", False),
        ("workspace:b/c", "a/", "a/c", "b/c", False),
    ],
)
def test_the_arguments_say_what_goes_where(source, target, local, remote, is_upload):
    copy = parse(source, target)
    assert (str(copy.local), copy.is_upload) == (local, is_upload)
    assert copy.remote == PurePosixPath(remote)


@pytest.mark.parametrize(
    "arguments",
    [
        ("a", "b"),
        ("workspace:a", "workspace:b"),
        ("a", "workspace:../b"),
        ("a", "workspace:/b"),
        ("workspace:", "a"),
    ],
)
def test_a_copy_that_goes_nowhere_or_out_of_the_workspace_is_refused(arguments):
    with pytest.raises(ConfigError):
        parse(*arguments)


def test_a_claim_or_a_job_must_be_named(api, corpus, capsys):
    assert main(["cp", str(corpus), "workspace:c"]) == 2
    assert "add -w CLAIM or --job NAME" in capsys.readouterr().err


def test_no_archive_writes_outside_its_target(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("/etc")
    pieces = []
    pack(tmp_path / "a", "root", pieces.append)
    unpack(iter(pieces), "root", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ConfigError, match="not whole"):
        unpack(iter(pieces), "elsewhere", tmp_path / "out")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("root/../b"))
    with pytest.raises(ConfigError, match="leads out"):
        unpack(iter([stream.getvalue()]), "root", tmp_path / "out")


class Deaf:
    def __init__(self, *frames):
        self.frames = list(frames)

    def recv_data(self):
        return self.frames.pop(0)

    def send_binary(self, payload):
        raise WebSocketConnectionClosedException("gone")


def test_a_connection_that_breaks_is_no_end():
    with pytest.raises(ApiError, match="broke"):
        list(Execution(Deaf((BINARY, b"\x01a"), (HANG_UP, b"")), "tar").output())
    with pytest.raises(ConnectionResetError):
        Execution(Deaf(), "tar").write(b"a")


def test_why_a_pod_does_not_run_is_said_in_kubernetes_words():
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    status = {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
    assert why_not_running({"status": status}) == "ErrImagePull: no such image"
    assert why_not_running({"status": {"phase": "Pending"}}) == "Pending"


def test_a_pod_that_does_not_start_is_given_up(api, corpus, monkeypatch, capsys):
    monkeypatch.setattr(copy_command, "START_SECONDS", -1.0)
    monkeypatch.setattr(api, "get", lambda *_: {"status": {"phase": "Pending"}})
    assert main(["cp", "-w", "work", str(corpus), "workspace:c"]) == 1
    assert "must run, to reach claim work" in capsys.readouterr().err
    assert api.pods == {}
