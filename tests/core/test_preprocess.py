"""Preprocessing: exact ids, the same bytes after any kill, and what is refused."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import sentencepiece
from click.testing import CliRunner

from pangu_core.data import preprocessing
from pangu_core.data.documents import Piece
from pangu_core.data.preprocessing import Chunk, Corpus, Encoding, Report, encode_chunk, preprocess
from pangu_core.data.token_files import TokenFile, sibling
from pangu_core.data.tokenizer import load_tokenizer
from pangu_core.entry.preprocess import main
from pangu_core.errors import DataError

POEM = "白日依山尽，\n黄河入海流。\n\n欲穷千里目！\n更上一层楼。\n"
MARKS = ["\u2583", "\u2582", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vocabulary with the published special ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(POEM.split()),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        user_defined_symbols=MARKS,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture
def corpus(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Five chunks of numbered documents in three files."""
    monkeypatch.setattr(preprocessing, "SMALLEST_CHUNK_BYTES", 2_000)
    files = tuple(tmp_path / f"{name}.txt" for name in "abc")
    for number, path in enumerate(files):
        path.write_text("\n\n".join(f"黄河{number}入海流{i}。" for i in range(120)), "utf-8")
    encoding = Encoding("text", "text", False, True, vocabulary)
    return Corpus(files, tmp_path / "out" / "tokens", encoding, "f1", num_workers=2)


def ignore(report: Report) -> None:
    pass


def bytes_of(prefix: Path) -> list[bytes]:
    return [sibling(prefix, suffix).read_bytes() for suffix in (".bin", ".idx")]


def stop_after(num_bytes: int) -> Callable[[Report], None]:
    def on_progress(report: Report) -> None:
        if report.num_bytes >= num_bytes:
            raise KeyboardInterrupt

    return on_progress


def encoded(folder: Path, vocabulary: Path, **settings: object) -> TokenFile:
    """The poem as one chunk, encoded in this process."""
    (folder / "poem.txt").write_text(POEM, "utf-8")
    encoding = replace(Encoding("text", "text", False, True, vocabulary), **settings)
    piece = Piece(folder / "poem.txt", 0, len(POEM.encode()))
    encode_chunk(Chunk((piece,), folder / "t", encoding))
    return TokenFile.open(folder / "t")


def items_of(file: TokenFile) -> list[list[int]]:
    starts = [file.item_start(item) for item in range(file.num_items + 1)]
    return [file.tokens(*bounds).tolist() for bounds in pairwise(starts)]


def test_each_document_is_its_ids_and_the_end_mark(tmp_path: Path, vocabulary: Path) -> None:
    encode = load_tokenizer(vocabulary).encode
    first, second = (part.strip("\n") for part in POEM.split("\n\n"))
    assert items_of(encoded(tmp_path, vocabulary)) == [[*encode(first), 9], [*encode(second), 9]]
    bare = encoded(tmp_path, vocabulary, append_eod=False)
    assert items_of(bare) == [encode(first), encode(second)]


def test_sentences_are_items_of_their_document(tmp_path: Path, vocabulary: Path) -> None:
    file = encoded(tmp_path, vocabulary, split_sentences=True)
    assert file.documents.tolist() == [0, 1, 3]
    assert [item[-1] == 9 for item in items_of(file)] == [True, False, True]


def test_the_bytes_do_not_depend_on_workers_or_chunks(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Report] = []
    report = preprocess(corpus, on_progress=reports.append)
    first = bytes_of(corpus.output)
    assert report.num_documents == 360
    assert report.num_tokens * 2 == len(first[0])
    assert [r.num_bytes for r in reports] == sorted(r.num_bytes for r in reports)
    assert len(reports) > 4
    monkeypatch.undo()
    assert preprocess(replace(corpus, num_workers=1), on_progress=ignore).reused_bytes == 0
    assert bytes_of(corpus.output) == first
    assert sorted(path.name for path in corpus.output.parent.iterdir()) == [
        "tokens.bin",
        "tokens.done",
        "tokens.idx",
    ]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(corpus: Corpus) -> None:
    undisturbed = replace(corpus, output=corpus.output.with_name("undisturbed"))
    preprocess(undisturbed, on_progress=ignore)
    with pytest.raises(KeyboardInterrupt):
        preprocess(corpus, on_progress=stop_after(4_000))
    assert not sibling(corpus.output, ".idx").exists()
    reports: list[Report] = []
    preprocess(corpus, on_progress=reports.append)
    assert reports[0].num_bytes == reports[0].reused_bytes >= 4_000
    assert bytes_of(corpus.output) == bytes_of(undisturbed.output)


def test_a_damaged_chunk_is_done_again(corpus: Corpus) -> None:
    with pytest.raises(KeyboardInterrupt):
        preprocess(corpus, on_progress=stop_after(1))
    for path in corpus.output.parent.glob(".tokens.work-*/[0-9]*.bin"):
        path.write_bytes(path.read_bytes()[:-1])
    report = preprocess(corpus, on_progress=ignore)
    assert report.reused_bytes == 0
    assert TokenFile.open(corpus.output).num_items == 360


def test_a_kill_while_cleaning_up_costs_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        (folder / "000000.idx").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            preprocess(corpus, on_progress=ignore)
    report = preprocess(corpus, on_progress=ignore)
    assert report.reused_bytes == report.num_bytes == report.total_bytes
    assert report.num_documents == 360
    assert not list(corpus.output.parent.glob(".tokens.work-*"))


def test_other_settings_start_afresh(corpus: Corpus) -> None:
    with pytest.raises(KeyboardInterrupt):
        preprocess(corpus, on_progress=stop_after(1))
    report = preprocess(replace(corpus, fingerprint="f2"), on_progress=ignore)
    assert report.reused_bytes == 0
    assert not list(corpus.output.parent.glob(".tokens.work-*"))


def test_a_worker_that_dies_is_an_error_with_advice(corpus: Corpus) -> None:
    def kill_a_worker(report: Report) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(DataError, match=r"a worker process was killed: .*; give more memory"):
        preprocess(corpus, on_progress=kill_a_worker)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("content", "flags", "code", "message"),
    [
        (b"", [], 2, "data.input: 1 files, 0 bytes: must hold at least one document"),
        (b" \n\n \n", [], 2, "must hold at least one document; name files with text"),
        ("你好".encode("gb18030"), [], 2, "at byte 0: must be UTF-8; convert the file"),
        (b"{}", ["--format", "jsonl", "--json-key", "body"], 2, "'body' is a string; mend"),
        (None, [], 2, "data.input: .*a.txt: must match at least one file; check"),
    ],
)
def test_a_bad_corpus_gets_a_message_of_four_parts(
    content: bytes | None,
    flags: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    vocabulary: Path,
) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    source, output = str(tmp_path / "a.txt"), str(tmp_path / "t")
    exit_code, stderr = invoke(
        "--input", source, "--output", output, "--tokenizer", str(vocabulary), *flags
    )
    assert exit_code == code
    assert message.replace(".*", "") in stderr or all(p in stderr for p in message.split(".*"))
    assert not (tmp_path / "t.idx").exists()


def test_a_folder_as_input_is_told_how_to_name_its_files(tmp_path: Path) -> None:
    code, stderr = invoke("--input", str(tmp_path), "--output", str(tmp_path / "t"))
    assert code == 2
    assert f"data.input: {tmp_path}: is a folder; write {tmp_path}/*.txt" in stderr


def test_a_pattern_that_matches_nothing_is_named_with_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        f"data.input: {tmp_path}/c/*.txt: must match"
        in invoke("--input", "c/*.txt", "--output", "t")[1]
    )


def test_an_output_is_required(tmp_path: Path) -> None:
    assert invoke("--input", "x") == (2, "error: --output: nothing: is required; add --output\n")


def test_a_finished_stage_is_skipped(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.model").write_bytes(vocabulary.read_bytes())
    (tmp_path / "poem.txt").write_text(POEM, "utf-8")
    config = {
        "run": {"name": "poem", "uid": "u1"},
        "input": "*.txt",
        "tokenizer": "vocab.model",
        "output": "runs/poem/data/tokens",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    for name, file in (("CONFIG", "config.yaml"), ("TERMINATION_PATH", "end"), ("WORKSPACE", "")):
        monkeypatch.setenv(f"PANGU_{name}", str(tmp_path / file))
    ends = []
    for _ in range(2):
        assert invoke()[0] == 0
        ends.append(json.loads((tmp_path / "end").read_text()))
    assert [end["skipped"] for end in ends] == [False, True]
    assert ends[0]["output"] == ends[1]["output"] == "runs/poem/data/tokens"
    sibling(tmp_path / config["output"], ".bin").unlink()
    assert invoke()[0] == 0
    assert TokenFile.open(tmp_path / "runs/poem/data/tokens").num_items == 2


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_process_leaves_no_worker_and_its_chunks(
    stop: signal.Signals, tmp_path: Path, vocabulary: Path
) -> None:
    (tmp_path / "a.txt").write_text((POEM + "\n") * 15_000, "utf-8")
    source, output = str(tmp_path / "a.txt"), str(tmp_path / "t")
    flags = ["--input", source, "--output", output, "--tokenizer", str(vocabulary)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pangu_core.entry.preprocess", "--workers", "2", *flags],
        start_new_session=True,
    )
    while not list(tmp_path.glob(".t.work-*/000*.idx")):
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    if stop == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, stop)
    assert process.wait(timeout=20) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[stop]
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert list(tmp_path.glob(".t.work-*/000*.idx"))
    assert not (tmp_path / "t.idx").exists()
