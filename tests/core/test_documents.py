"""Corpus files to documents: separators, chunks, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.documents import Format, Piece, plan_chunks, read_documents
from pangu_core.errors import ConfigError

TEXT = st.text(st.sampled_from("你a \n\r\ufeff"))


def documents(path: Path, form: Format = "text", chunk_bytes: int = 1 << 20) -> list[str]:
    return [
        document
        for chunk in plan_chunks([path], form=form, chunk_bytes=chunk_bytes)
        for piece in chunk
        for document in read_documents(piece, form=form, json_key="text")
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("一\n二\n\n三\n", ["一\n二", "三"]),
        ("\n\n一\n\n\n\n二\n\n\n", ["一", "二"]),
        ("一\r\n二\r\n\r\n三\r\n", ["一\n二", "三"]),
        ("\ufeff一\n\n \n\n二", ["一", "二"]),
        ("  诗\n  句  ", ["  诗\n  句  "]),
        ("", []),
    ],
)
def test_blank_lines_separate_documents(content: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    assert documents(tmp_path / "a.txt") == expected


@settings(deadline=None)
@given(text=TEXT, chunk_bytes=st.integers(1, 12))
def test_chunks_do_not_change_the_documents(
    text: str, chunk_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("chunks") / "a.txt"
    path.write_bytes(text.encode())
    assert documents(path, chunk_bytes=chunk_bytes) == documents(path)


@settings(deadline=None)
@given(texts=st.lists(TEXT), chunk_bytes=st.integers(1, 40))
def test_json_lines_are_documents_whatever_the_chunks(
    texts: list[str], chunk_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    expected = [text for text in texts if text.strip()]
    assert documents(path, "jsonl", chunk_bytes) == expected


def test_small_files_share_a_chunk_and_large_ones_are_cut(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, size in zip(paths, (4, 5, 30), strict=True):
        path.write_bytes(b"x" * size + b"\n\n" + b"y" * size)
    chunks = plan_chunks(paths, form="text", chunk_bytes=15)
    a, b, c = paths
    assert chunks == [
        (Piece(a, 0, 10), Piece(b, 0, 12)),
        (Piece(c, 0, 32),),
        (Piece(c, 32, 62),),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line at byte 16: {.*: must be one JSON object a line"),
        ("3", "must be an object whose 'text' is a string"),
        ('{"body": "x"}', "must be an object whose 'text' is a string"),
        ('{"text": 3}', "must be an object whose 'text' is a string"),
    ],
)
def test_a_bad_json_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + line)
    with pytest.raises(ConfigError, match=message):
        documents(tmp_path / "a.jsonl", "jsonl")


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_text_that_is_not_utf8_is_refused_with_its_place(form: Format, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"text": "x"}\n\n' + "你好".encode("gb18030"))
    with pytest.raises(ConfigError, match="at byte 15: must be UTF-8; convert the file"):
        documents(tmp_path / "a", form, chunk_bytes=3)
