"""PanGu-alpha's tokenizer for transformers (needs version 5.5): jieba's words, then SentencePiece."""

import re
import shutil
from pathlib import Path

import jieba
import sentencepiece
from transformers import PreTrainedTokenizer

SPACE, LINE_BREAK = "\u2582", "\u2583"
SURROGATE = re.compile("[\ud800-\udfff]")


class GPTPanguTokenizer(PreTrainedTokenizer):
    """The published ids; nothing is added to them, and "<eot>" in a text is five characters.

    Call with ``split_special_tokens=False`` to read special tokens in the text as such.
    """

    vocab_files_names = {"vocab_file": "vocab.model"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file,
        bos_token="<eot>",
        eos_token="<eot>",
        pad_token="<pad>",
        unk_token="<unk>",
        split_special_tokens=True,
        **kwargs,
    ):
        self.vocab_file = str(vocab_file)
        # Before the base class, which asks for the vocabulary.
        self.sp = sentencepiece.SentencePieceProcessor(model_proto=Path(vocab_file).read_bytes())
        self.pieces = {self.sp.id_to_piece(index): index for index in range(len(self.sp))}
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            unk_token=unk_token,
            split_special_tokens=split_special_tokens,
            **kwargs,
        )

    @property
    def vocab_size(self):
        """Ids of the vocabulary file; added tokens come behind them."""
        return len(self.pieces)

    def get_vocab(self):
        """Piece -> id, added tokens included."""
        return {**self.pieces, **self._added_tokens_encoder}

    def convert_tokens_to_string(self, tokens):
        """The text of pieces: block characters read as space and line break."""
        text = "".join(self._texts(tokens))
        return text.replace(" ", "").replace(SPACE, " ").replace(LINE_BREAK, "\n")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Copy the vocabulary file."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if Path(self.vocab_file).is_file():
            if target.resolve() != Path(self.vocab_file).resolve():
                shutil.copyfile(self.vocab_file, target)
        else:
            target.write_bytes(self.sp.serialized_model_proto())
        return (str(target),)

    def _tokenize(self, text, **kwargs):
        marked = SURROGATE.sub("\ufffd", text).replace(" ", SPACE).replace("\n", LINE_BREAK)
        return self.sp.encode(" ".join(jieba.cut(marked)), out_type=str)

    def _convert_token_to_id(self, token):
        return self.sp.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.sp.id_to_piece(index)

    def _texts(self, tokens):
        """Text of each run of pieces of the vocabulary, and added tokens as they are."""
        run = []
        for token in tokens:
            if token in self.pieces or token not in self._added_tokens_encoder:
                run.append(token)
                continue
            yield self.sp.decode_pieces(run)
            yield token
            run = []
        yield self.sp.decode_pieces(run)
