"""Files elsewhere, on a real S3 service, a web server and a folder; and how failures are told."""

import http.server
import threading

import pytest

from pangu_core.errors import ConfigError, RemoteError
from pangu_core.remote.faults import retrying
from pangu_core.remote.files import Piece, Remote


def opened(url):
    return Remote(url, subject="data.input")


def put(url, **files):
    """Write small files below an address, through a local folder."""
    remote = opened(url)
    for name, text in files.items():
        remote._fs.pipe_file(remote._path(name.replace("__", "/")), text.encode())


@pytest.fixture(params=["s3", "file", "memory"])
def place(request, tmp_path):
    """An empty folder in each kind of store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/place"
    return {"file": f"file://{tmp_path}/place", "memory": f"memory://{tmp_path}"}[request.param]


def test_what_is_written_is_listed_read_and_removed(place, tmp_path):
    remote, source = opened(place), tmp_path / "source"
    assert remote.files() == {}
    source.write_bytes(b"weights")
    remote.upload(source, "step-1/model")
    remote.upload(source, "manifest")
    listed = remote.files()
    assert {name: file.size for name, file in listed.items()} == {"step-1/model": 7, "manifest": 7}
    assert remote.read("step-1/model") == b"weights"
    remote.download("step-1/model", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"weights"
    remote.remove("manifest")
    remote.remove("manifest")
    assert set(remote.files()) == {"step-1/model"}


def test_a_folder_a_file_and_a_pattern_are_told_apart(place):
    put(f"{place}/corpus", a="a", b="bb", deep__c="ccc", a2="x")
    assert set(opened(f"{place}/corpus").matches()) == {
        f"corpus/{name}" for name in ("a", "b", "a2", "deep/c")
    }
    assert {k: v.size for k, v in opened(f"{place}/corpus/b").matches().items()} == {"b": 2}
    assert set(opened(f"{place}/corpus/a*").matches()) == {"a", "a2"}
    assert set(opened(f"{place}/co*/[ab]").matches()) == {"corpus/a", "corpus/b"}


def test_a_change_of_content_changes_the_version(bucket):
    put(bucket, a="one")
    [before] = opened(f"{bucket}/a").matches().values()
    put(bucket, a="two")
    assert opened(bucket).stat(before).version != before.version


def test_pieces_are_read_in_their_order(place):
    put(place, a="0123456789", b="abc")
    remote = opened(place)
    files = remote.files()
    pieces = [Piece(files["b"], 1, 3), Piece(files["a"], 0, 4), Piece(files["a"], 4, 10)]
    assert remote.read_pieces(pieces) == [b"bc", b"0123", b"456789"]


def test_a_name_that_leads_out_of_its_folder_is_refused(bucket):
    put(bucket, c__x="fine", **{"c__..__..__evil": "no"})
    with pytest.raises(ConfigError, match="no name may lead out of its folder"):
        opened(f"{bucket}/c").matches()


def test_an_upload_that_arrives_short_is_an_error(place, tmp_path, monkeypatch):
    remote, source = opened(place), tmp_path / "source"
    source.write_bytes(b"weights")
    monkeypatch.setattr(
        remote._fs, "put_file", lambda _, path, **__: remote._fs.pipe_file(path, b"we")
    )
    if place.startswith("file"):
        (tmp_path / "place").mkdir()
    with pytest.raises(RemoteError, match="x has 2 bytes there: 7 were sent; run again"):
        remote.upload(source, "x")


def refusal(url):
    with pytest.raises((ConfigError, RemoteError)) as caught:
        opened(url).matches()
    return caught.value


def test_a_missing_key_bucket_or_match_is_named(bucket):
    for url in (f"{bucket}/none", "s3://no-such-bucket-here/x", f"{bucket}/*.txt"):
        error = refusal(url)
        assert isinstance(error, ConfigError)
        assert str(error).startswith(f"data.input: {url}: ")
        assert "check the address" in error.fix


def test_missing_credentials_name_the_secret_and_the_shell(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = refusal(f"{bucket}/x")
    assert isinstance(error, ConfigError)
    assert error.rule == "needs credentials"
    assert "name a Secret" in error.fix


@pytest.mark.parametrize(
    "url", ["s3://b-b-b/x", "http://no-such-host.invalid/x", "http://127.0.0.1:1/x"]
)
def test_a_host_that_is_not_there_may_be_there_later(url, monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    error = refusal(url)
    assert isinstance(error, RemoteError)
    assert error.rule == "must be reachable from here"


def test_unknown_protocols_and_missing_libraries_are_told():
    assert refusal("zz://x/y").rule == "must be an address that can be opened"
    assert refusal("gs://x/y").rule == "needs a library that is not installed"


class Web(http.server.BaseHTTPRequestHandler):
    """Serves one file; with ranges where its server has them."""

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, *, send):
        status = {"/gone": 404, "/secret": 403, "/down": 503}.get(self.path.partition("?")[0], 200)
        data = self.server.content if status == 200 else b""
        begin = self.headers.get("Range", "").removeprefix("bytes=")
        if begin and self.server.has_ranges and data:
            first, last = map(int, begin.split("-"))
            data, status = data[first : last + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        if send:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def web(request):
    """A web server and its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.content, server.has_ranges = bytes(range(256)) * 40, request.param
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_of_the_web_is_streamed_from_any_byte(web):
    server, address = web
    remote = opened(f"{address}/a/old.ckpt?key=secret")
    [(name, file)] = remote.matches().items()
    assert (name, file.size, file.version) == ("old.ckpt", 10240, '"v1"')
    assert not remote.has_ranges
    for start in (0, 1, 5000, 10239):
        assert b"".join(remote.stream(file, start)) == server.content[start:]


def test_answers_of_the_web_are_told_without_secrets(web):
    _, address = web
    kinds = {"gone": (ConfigError, "must exist"), "secret": (ConfigError, "refuses these"),
             "down": (RemoteError, "must answer")}  # fmt: skip
    for name, (kind, rule) in kinds.items():
        error = refusal(f"{address}/{name}?sign=abc")
        assert (type(error), rule in error.rule) == (kind, True)
        assert "abc" not in str(error)


def test_what_may_get_better_is_tried_again_later_and_later():
    waits, results = [], iter([RemoteError("x", seen="s", rule="r", fix="f")] * 2 + [7])

    def work():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    assert retrying(work, attempts=3, sleep=waits.append) == 7
    assert waits == [1.0, 2.0]


def test_what_no_try_mends_is_raised_at_once():
    def work():
        raise ConfigError("x", seen="s", rule="r", fix="f")

    with pytest.raises(ConfigError):
        retrying(work, sleep=pytest.fail)
