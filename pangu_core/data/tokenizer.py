"""The published tokenizer: jieba's words, then SentencePiece; text to ids and back.

Spaces and line breaks are written as two block characters, which have ids of their own. Encoding
normalises (NFKC), so ``decode(encode(text))`` need not be ``text``; full-width commas come back
as ASCII ones, for example.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sentencepiece

from pangu_core.data.segmentation import cut
from pangu_core.data.vocabulary import find_vocabulary
from pangu_core.errors import ConfigError, DataError

PAD: Final = 6
END_OF_DOCUMENT: Final = 9
# The pieces that these ids must be, for a vocabulary to be one of PanGu-alpha.
_MARKS: Final = {3: "\u2583", 4: "\u2582", PAD: "<pad>", END_OF_DOCUMENT: "<eot>"}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to token ids and back; safe to share between threads, and to pickle.

    Attributes:
        path: the vocabulary file.
        sha256: hash of its bytes, in hexadecimal.
        vocab_size: number of ids.
        eod_id: the id that ends a document.
        pad_id: the id that fills a row.
    """

    def __init__(self, path: Path) -> None:
        """Read a vocabulary file.

        Raises:
            ConfigError: it is not a PanGu-alpha vocabulary.
        """
        model = path.read_bytes()
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            seen = {token_id: processor.id_to_piece(token_id) for token_id in _MARKS}
        except (RuntimeError, IndexError) as error:
            raise _not_a_vocabulary(path, "not a SentencePiece model") from error
        if seen != _MARKS:
            raise _not_a_vocabulary(path, f"special pieces {seen}")
        self._processor = processor
        self.path = path
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = processor.get_piece_size()
        self.eod_id = END_OF_DOCUMENT
        self.pad_id = PAD

    def encode(self, text: str) -> list[int]:
        """The published ids of ``text``; ids 1, 2 and 5 to 9 never come from text.

        "<eot>" in the text is five ordinary characters: its brackets are words by themselves. Half
        a surrogate pair, which no text file can hold, counts as an unknown character.
        """
        if _SURROGATE.search(text):
            text = _SURROGATE.sub("\ufffd", text)
        # The original does this to each word after segmentation, where it gives the same ids: a
        # space, a line break and a block character are each a word by themselves.
        marked = text.replace(" ", _MARKS[4]).replace("\n", _MARKS[3])
        ids: list[int] = self._processor.encode(" ".join(cut(marked)))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; id 0 reads as U+2047, ids 1 and 2 as nothing.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        try:
            marked: str = self._processor.decode(list(ids))
        except IndexError as error:
            raise DataError(
                "token ids",
                seen=f"{min(ids)} to {max(ids)}",
                rule=f"must lie between 0 and {self.vocab_size - 1}",
                fix="use the vocabulary that the ids were made with",
            ) from error
        return marked.replace(" ", "").replace(_MARKS[4], " ").replace(_MARKS[3], "\n")

    def is_byte(self, token_id: int) -> bool:
        """Whether the piece is one byte of a character (the published vocabulary has none)."""
        found: bool = self._processor.is_byte(token_id)
        return found


class StreamDecoder:
    """Text of ids that come one by one; the pieces put together are ``decode`` of all ids.

    A piece of the vocabulary is whole characters, and decoding removes the spaces that depend on
    the neighbours, so each piece can be shown at once. Only where a vocabulary falls back to bytes
    are these held until the character is whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def feed(self, token_id: int) -> str:
        """The text that is certain with this id; may be empty."""
        if self._tokenizer.is_byte(token_id):
            self._held.append(token_id)
            return ""
        return self.finish() + self._tokenizer.decode([token_id])

    def finish(self) -> str:
        """The text still held back, at the end of the ids."""
        held, self._held = self._held, []
        return self._tokenizer.decode(held)


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file, of a folder with one, or the fetched one.

    Raises:
        ConfigError: there is no vocabulary, or it is not one of PanGu-alpha.
    """
    return Tokenizer(find_vocabulary(path))


def _not_a_vocabulary(path: Path, seen: str) -> ConfigError:
    return ConfigError(
        str(path),
        seen=seen,
        rule="must be a SentencePiece model with PanGu-alpha's special pieces",
        fix="remove `tokenizer`, or name the published vocab.model",
    )
