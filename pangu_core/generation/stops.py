"""Stop strings in a text that arrives in pieces, wherever the pieces are cut.

What ends a text is the stop string that is complete first, counted in characters; of several
complete at the same character, the longest. So the result does not depend on the pieces.
"""

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the text is to be cut; None without a stop string in it."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def held_length(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of the text that may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class StopFilter:
    """Lets text through up to a stop string; holds back what may still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take new text; returns what may be shown now, and whether a stop string ended it."""
        text, self._held = self._held + text, ""
        cut = find_stop(text, self._stops)
        if cut is not None:
            return text[:cut], True
        certain = len(text) - held_length(text, self._stops)
        self._held = text[certain:]
        return text[:certain], False

    def finish(self) -> str:
        """The text still held back, when no more will come."""
        held, self._held = self._held, ""
        return held
