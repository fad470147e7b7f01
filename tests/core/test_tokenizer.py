"""The tokenizer against the published ids, whole corpora, and hostile text."""

import hashlib
import io
import json
import pickle
from array import array
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.data.tokenizer import StreamDecoder, Tokenizer, load_tokenizer
from pangu_core.data.vocabulary import PUBLISHED_SHA256
from pangu_core.errors import ConfigError, DataError

NEVER_FROM_TEXT = {1, 2, 5, 6, 7, 8, 9}
SPECIAL = st.sampled_from(
    [
        "<eot>",
        "<sep>",
        "<pad>",
        "<mask>",
        "<eod>",
        "<s>",
        "</s>",
        "<unk>",
        "＜eot＞",
        "eot",
        "<",
        ">",
    ]
)
TEXT = st.lists(st.one_of(SPECIAL, st.characters(), st.sampled_from("你好\u2581\u2582\u2583 \r\n")))
# Of the plain path (jieba and SentencePiece), line by line, as bench/tokenizer.py prints them.
DIGESTS = {
    "peoples_daily.txt": "8c83df32bacb55084c4a044ec4b64f0b23743d6d5c7201141dfaf7ead362b08a",
    "pos.txt": "dea48ddb82aaddad5c02188575a1c217a478ea376bdc4ce28fb0c04d3c565ee0",
    "neg.txt": "8550a185ba5f2f1af506d3b5feda22a4248b440a08fe37d5e123e7caa479cfdd",
}


@pytest.fixture(scope="module")
def tokenizer(corpora: Path) -> Tokenizer:
    return load_tokenizer(corpora)


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.feed(token_id) for token_id in ids), decoder.finish()]


@pytest.mark.shared
def test_every_published_row_has_its_ids_and_its_text(tokenizer: Tokenizer, shared: Path) -> None:
    lines = (shared / "golden/tokenizer_pcl.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.decode(row["ids"]) == row["decoded"]
        assert "".join(stream(tokenizer, row["ids"])) == row["decoded"]


@pytest.mark.parametrize("name", DIGESTS)
def test_every_line_of_a_corpus_has_the_ids_of_the_plain_path(
    tokenizer: Tokenizer, corpora: Path, name: str
) -> None:
    ids = hashlib.sha256()
    for line in (corpora / name).read_text("utf-8").split("\n"):
        ids.update(array("H", [*tokenizer.encode(line), 65535]).tobytes())
    assert ids.hexdigest() == DIGESTS[name]


@given(pieces=TEXT)
def test_control_ids_never_come_from_text(tokenizer: Tokenizer, pieces: list[str]) -> None:
    ids = tokenizer.encode("".join(pieces))
    assert NEVER_FROM_TEXT.isdisjoint(ids)
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)


@pytest.mark.parametrize("name", ["<eot>", "<sep>", "<pad>", "<mask>", "<eod>", "<s>", "</s>"])
def test_a_special_name_in_text_stays_text(tokenizer: Tokenizer, name: str) -> None:
    for text in (name, f"你好{name}你好", f"a{name}{name}b"):
        ids = tokenizer.encode(text)
        assert NEVER_FROM_TEXT.isdisjoint(ids)
        assert tokenizer.decode(ids) == text


def test_block_characters_read_as_space_and_line_break(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("\u2582") == tokenizer.encode(" ") == [13, 4]
    assert tokenizer.encode("\u2583") == tokenizer.encode("\n") == [13, 3]
    assert tokenizer.encode("好\r\n好") == tokenizer.encode("好\n好")


def test_half_a_surrogate_pair_is_no_error(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("好\ud800") == tokenizer.encode("好\ufffd")


@given(ids=st.lists(st.one_of(st.integers(0, 39_999), st.integers(0, 13)), max_size=40))
def test_streamed_text_is_the_whole_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_no_piece_is_half_a_character(tokenizer: Tokenizer) -> None:
    pieces = stream(tokenizer, list(range(tokenizer.vocab_size)))
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary that spells unknown characters in bytes, unlike the published one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc abe"] * 10),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["▃", "▂", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>"],
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("bytes") / "vocab.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path)


@given(text=st.text(max_size=10), cut_at=st.integers(0, 20))
def test_bytes_are_held_until_the_character_is_whole(
    byte_tokenizer: Tokenizer, text: str, cut_at: int
) -> None:
    ids = byte_tokenizer.encode(text)[:cut_at]
    pieces = stream(byte_tokenizer, ids)
    assert "".join(pieces) == byte_tokenizer.decode(ids)
    assert "\ufffd" in byte_tokenizer.decode(ids) or not any("\ufffd" in each for each in pieces)


def test_the_tokenizer_says_what_it_is(tokenizer: Tokenizer, corpora: Path) -> None:
    assert tokenizer.sha256 == PUBLISHED_SHA256
    assert tokenizer.path == corpora / "vocab.model"
    assert (tokenizer.vocab_size, tokenizer.eod_id, tokenizer.pad_id) == (40_000, 9, 6)


def test_a_pickled_tokenizer_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    again: Tokenizer = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("你好啊") == tokenizer.encode("你好啊") == [5772, 173]


@pytest.mark.parametrize("token_id", [-1, 40_000])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(DataError, match="between 0 and 39999"):
        tokenizer.decode([5, token_id])


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.model").write_bytes(b"no model")
    with pytest.raises(
        ConfigError, match=r"not a SentencePiece model: must be .*; remove `tokenizer`"
    ):
        load_tokenizer(tmp_path)
