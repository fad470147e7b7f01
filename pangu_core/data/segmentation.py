"""Word segmentation equal to jieba 0.42.1 (``cut``, HMM on), several times as fast.

The published token ids depend on jieba's words, so equality is the contract. jieba finds the most
probable way through its dictionary; where that leaves characters alone, an HMM joins them. rjieba
does the first part with the same sums in the same order and the same rule for ties. The rest is
done here, because rjieba differs:

* It rounds the HMM's emissions to six decimals, so ties and near ties may fall the other way. So
  the HMM runs here, on jieba's own table and with jieba's order of sums and ties.
* The total of its dictionary is smaller by an entry that jieba counts twice. So that is added.
* It takes the rarer Han ranges into a block, where jieba emits those characters one by one. So
  text that has any is first split into blocks by jieba's own expression.
* It joins ASCII differently in words that are not in the dictionary ("7-8" is one word to it). So
  runs of ASCII in a block are cut here, by jieba's expression.
"""

import pickle
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import rjieba

_ASCII: Final = r"a-zA-Z0-9+#&._%\-"
# What jieba segments; everything else is a word by itself, character by character.
_BLOCK: Final = re.compile(f"([\u4e00-\u9fd5{_ASCII}]+)")
_SINGLE: Final = re.compile("\r\n|.", re.DOTALL)
# Text with none of these is cut the same by both: no ASCII that belongs into a block, no Han
# character outside jieba's range, and nothing that has no UTF-8.
_DIFFERS: Final = re.compile(
    f"[{_ASCII}\u3400-\u4dbf\u9fd6-\u9fff\uf900-\ufaff\ud800-\udfff\U00020000-\U0003ffff]"
)
_HAN: Final = re.compile("([\u4e00-\u9fd5]+)")
# The dictionary's only words of pure ASCII, which win over the rule for unknown ASCII.
_ASCII_WORD: Final = re.compile(r"(AT&T|[cC]\+\+|[cC]#)")
# That rule: alphanumerics with at most one decimal part and a percent sign.
_ASCII_TOKEN: Final = re.compile(r"([a-zA-Z0-9]+(?:\.[0-9]+)?%?)")

# jieba's total counts an entry twice that its file has twice. A space is never part of a block, so
# as a word it only counts.
rjieba.add_word(" ", 3, None)

# Longer runs are rare, and remembering them would let a hostile text fill the memory.
_REMEMBERED_LENGTH: Final = 16

# jieba's HMM of the states Begin, End and Middle of a word, and Single. Its file of the emissions
# is read; the rest of it is these few logarithms.
_STATES: Final = "BEMS"
_IMPOSSIBLE: Final = -3.14e100
_UNKNOWN: Final = (_IMPOSSIBLE,) * 4
_START_BEGIN: Final = -0.26268660809250016
_START_SINGLE: Final = -1.4652633398537678
_BEGIN_END: Final = -0.510825623765990
_BEGIN_MIDDLE: Final = -0.916290731874155
_END_BEGIN: Final = -0.5897149736854513
_END_SINGLE: Final = -0.8085250474669937
_MIDDLE_END: Final = -0.33344856811948514
_MIDDLE_MIDDLE: Final = -1.2603623820268226
_SINGLE_BEGIN: Final = -0.7211965654669841
_SINGLE_SINGLE: Final = -0.6658631448798212


def cut(text: str) -> list[str]:
    """The words of ``text``, in order and without a gap, as ``jieba.lcut(text)`` gives them."""
    if not _DIFFERS.search(text):
        return _cut_blocks(text, has_ascii=False)
    words: list[str] = []
    for index, piece in enumerate(_BLOCK.split(text)):
        if index % 2 == 0:
            words += _SINGLE.findall(piece)
        elif piece.isascii():
            words += _cut_ascii(piece)
        else:
            words += _cut_blocks(piece, has_ascii=True)
    return words


def _cut_blocks(text: str, *, has_ascii: bool) -> list[str]:
    """Words of a text whose blocks are the same to both; with ASCII in them, of one block."""
    words: list[str] = []
    run = ""  # What the dictionary leaves alone: Han characters, and ASCII in a block.
    for word in rjieba.cut(text, False):
        if (len(word) == 1 and "\u4e00" <= word <= "\u9fd5") or (
            has_ascii and word.isascii() and not _ASCII_WORD.fullmatch(word)
        ):
            run += word
        else:
            if run:
                words += _cut_run(run) if len(run) > 1 else run
                run = ""
            words.append(word)
    words += _cut_run(run) if len(run) > 1 else run
    return words


def _cut_run(run: str) -> Sequence[str]:
    """Words of two or more neighbours that the dictionary leaves alone."""
    return _remembered_cut(run) if len(run) <= _REMEMBERED_LENGTH else _join(run)


@lru_cache(maxsize=1 << 15)
def _remembered_cut(run: str) -> tuple[str, ...]:
    return tuple(_join(run))


def _join(run: str) -> list[str]:
    # The dictionary knew this word, and found its characters more probable.
    if rjieba.has_word(run):
        return list(run)
    words: list[str] = []
    for index, piece in enumerate(_HAN.split(run)):
        words += _cut_han(piece) if index % 2 else _cut_ascii(piece)
    return words


def _cut_han(run: str) -> list[str]:
    words: list[str] = []
    start = 0
    for end, state in enumerate(_most_probable_states(run), start=1):
        if state in "ES":
            words.append(run[start:end])
            start = end
    return words


def _most_probable_states(run: str) -> str:
    """The HMM's states of ``run``, one letter for each character, by Viterbi's algorithm.

    The words depend on the last bit of these sums: each adds a transition, then an emission, and
    of two equal sums the later letter's wins, as in jieba.
    """
    emissions = _emissions()
    b, e, m, s = emissions.get(run[0], _UNKNOWN)
    begin, end = _START_BEGIN + b, _IMPOSSIBLE + e
    middle, single = _IMPOSSIBLE + m, _START_SINGLE + s
    origins: list[dict[str, str]] = []  # Of each character but the first: the state before each.
    for character in run[1:]:
        b, e, m, s = emissions.get(character, _UNKNOWN)
        end_b, single_b = end + _END_BEGIN + b, single + _SINGLE_BEGIN + b
        begin_e, middle_e = begin + _BEGIN_END + e, middle + _MIDDLE_END + e
        begin_m, middle_m = begin + _BEGIN_MIDDLE + m, middle + _MIDDLE_MIDDLE + m
        end_s, single_s = end + _END_SINGLE + s, single + _SINGLE_SINGLE + s
        origins.append(
            {
                "B": "E" if end_b > single_b else "S",
                "E": "B" if begin_e > middle_e else "M",
                "M": "B" if begin_m > middle_m else "M",
                "S": "E" if end_s > single_s else "S",
            }
        )
        begin, end = max(end_b, single_b), max(begin_e, middle_e)
        middle, single = max(begin_m, middle_m), max(end_s, single_s)
    path = ["E" if end > single else "S"]
    for origin in reversed(origins):
        path.append(origin[path[-1]])
    return "".join(reversed(path))


def _cut_ascii(run: str) -> list[str]:
    words: list[str] = []
    for index, piece in enumerate(_ASCII_WORD.split(run)):
        words += [piece] if index % 2 else filter(None, _ASCII_TOKEN.split(piece))
    return words


@cache
def _emissions() -> dict[str, tuple[float, ...]]:
    """Of each character, the logarithms of its probabilities in the four states.

    jieba itself isn't imported: its import takes longer than the rest of this module needs.
    """
    file = Path(str(distribution("jieba").locate_file("jieba/finalseg/prob_emit.p")))
    # As trusted as the code of the package that it belongs to.
    by_state: dict[str, dict[str, float]] = pickle.loads(file.read_bytes())  # noqa: S301
    tables = [by_state[state] for state in _STATES]
    return {
        character: tuple(table.get(character, _IMPOSSIBLE) for table in tables)
        for character in set().union(*tables)
    }
