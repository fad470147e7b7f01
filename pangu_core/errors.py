"""Every error that a person is meant to read, and the exit code that each one becomes.

A pod's exit code is a message to whoever restarts it (docs/elasticity.md):

    0          complete
    2          the configuration is wrong; never retried
    1, 3..127  this attempt failed; the next one is charged to the restart budget
    128..      only this pod is replaced (signals, and peers or store that went away)

    PanguError
      ConfigError        2   what the user wrote cannot work
      DataError          3   the text or token files cannot be used
      CheckpointError    4   no checkpoint that can be trusted
      TrainingError      5   the numbers went wrong (loss or gradient not finite)
      WorkspaceError     6   the volume: full, read-only, owned by another run
      StallError         7   a rank made no progress
      RemoteError        8   a store elsewhere cannot be reached, or fails
      RendezvousError  201   peers or the store went away; the pod is replaced for free
      Stopped          143   asked to stop, state saved
"""

from functools import partial
from typing import Any, Final

EXIT_COMPLETE: Final = 0
EXIT_UNEXPECTED: Final = 1
EXIT_STOPPED: Final = 143
# From a rank to its launcher only: it left at a step boundary because another pod is stopping
# or the gang changes size, and takes part in the next round. Never a pod's exit code.
EXIT_REJOIN: Final = 202


class PanguError(Exception):
    """An error with four parts: what it is about, the value seen, the rule, and what to do.

    The parts are keyword-only, so that none can be forgotten.
    """

    exit_code: int = EXIT_UNEXPECTED

    def __init__(self, subject: str, *, seen: Any, rule: str, fix: str) -> None:
        super().__init__(subject, seen, rule, fix)
        self.subject = subject
        self.seen = seen
        self.rule = rule
        self.fix = fix

    def __str__(self) -> str:
        seen = self.seen if isinstance(self.seen, str) else repr(self.seen)
        return f"{self.subject}: {shorten(seen)}: {self.rule}; {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders; the default would pass the parts by position."""
        parts = {"seen": self.seen, "rule": self.rule, "fix": self.fix}
        return partial(type(self), self.subject, **parts), ()


class ConfigError(PanguError):
    """What the user wrote cannot work; retrying would not help."""

    exit_code = 2


class DataError(PanguError):
    """The text or the token files cannot be used."""

    exit_code = 3


class CheckpointError(PanguError):
    """No checkpoint that can be trusted."""

    exit_code = 4


class TrainingError(PanguError):
    """The numbers went wrong: a loss or a gradient that is not finite."""

    exit_code = 5


class WorkspaceError(PanguError):
    """The volume is full, read-only, or owned by another run."""

    exit_code = 6


class StallError(PanguError):
    """A rank made no progress within its limit."""

    exit_code = 7


class RemoteError(PanguError):
    """A store elsewhere cannot be reached, or fails; it may be better later."""

    exit_code = 8


class RendezvousError(PanguError):
    """Peers or the store went away; this pod may be replaced at no charge."""

    exit_code = 201


class Stopped(PanguError):  # noqa: N818 - a request that was honoured, not a fault
    """Asked to stop by a signal; the state is saved."""

    exit_code = EXIT_STOPPED


def shorten(text: str, limit: int = 200) -> str:
    """Cut a value for display, so that no message drags a whole file along."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
