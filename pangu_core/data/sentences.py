"""Sentence splitting for Chinese and Western text: NLTK's Punkt, with no trained model to fetch.

Punkt looks for a blank after the full stop, and Chinese has none. So the text is first cut after
Chinese endings (and their closing quotes), and Punkt cuts the stretches between.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Final

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

# Ideographic full stop, full-width ! and ?, ellipsis.
ENDINGS: Final = "\u3002\uff01\uff1f\u2026"
# Closing quotes and brackets belong to the sentence that they end.
CLOSERS: Final = "\u201d\u2019\u300d\u300f\uff09\u3011\u300b\u3009\u3015\"')\\]"
# Behind these the sentence goes on: comma, enumeration comma, semicolon, colon, in both widths.
CONTINUATIONS: Final = "\uff0c\u3001\uff1b\uff1a,;:"
# Han characters, and opening quotes and brackets: what a Chinese sentence starts with.
STARTS: Final = "\u3400-\u9fff\u201c\u2018\u300c\u300e\uff08\u3010\u300a\u3008"

# A whole run of endings (the look-behind keeps long runs linear), which either ends in a Chinese
# one or stands right before Chinese text; possessive, so that no closer is given back.
BREAK: Final = re.compile(
    rf"(?<![{ENDINGS}!?])[{ENDINGS}!?]++"
    rf"(?:(?<=[{ENDINGS}])[{CLOSERS}]*+|[{CLOSERS}]*+(?=[{STARTS}]))"
    rf"(?![{CONTINUATIONS}])\s*+"
)
# Without a trained model these are all that Punkt knows; it spells them without the last stop.
ABBREVIATIONS: Final = frozenset(
    {"dr", "mr", "mrs", "ms", "prof", "vs", "etc", "no", "e.g", "i.e", "a.m", "p.m", "u.s", "ltd"}
)


class ChineseSentenceTokenizer(PunktSentenceTokenizer):  # type: ignore[misc] # NLTK has no types
    """Punkt that also ends a sentence at Chinese endings, which no blank follows."""

    def span_tokenize(
        self, text: str, realign_boundaries: bool = True
    ) -> Iterator[tuple[int, int]]:
        """Start and end of each sentence in the text."""
        cuts = [0, *(match.end() for match in BREAK.finditer(text)), len(text)]
        for start, stop in pairwise(cuts):
            for first, last in super().span_tokenize(text[start:stop], realign_boundaries):
                yield start + first, start + last


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with the blanks that follow it: joined, they are the text."""
    starts = [start for start, _ in _tokenizer().span_tokenize(text)]
    bounds = [0, *starts[1:], len(text)]
    return [text[start:stop] for start, stop in pairwise(bounds) if stop > start]


@cache
def _tokenizer() -> Any:
    parameters = PunktParameters()
    parameters.abbrev_types.update(ABBREVIATIONS)
    return ChineseSentenceTokenizer(parameters)
