"""Steps that all ranks take together: either each succeeds or each raises.

A rank that fails alone would leave the others waiting in the next collective. So outcomes, good or
bad, are exchanged after each step, and the first failing rank's error is raised on all of them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pangu_core.errors import PanguError, WorkspaceError

T = TypeVar("T")
# Collects one object of every rank on every rank, in rank order; ``alone`` for one process.
Gather = Callable[[Any], list[Any]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A rank's error in a form that travels; exceptions do not pickle with keyword arguments."""

    kind: type[PanguError]
    subject: str
    seen: str
    rule: str
    fix: str

    def error(self) -> PanguError:
        """The error to raise."""
        return self.kind(self.subject, seen=self.seen, rule=self.rule, fix=self.fix)


def alone(value: Any) -> list[Any]:
    """The gather of a world of one."""
    return [value]


def attempt(work: Callable[[], T]) -> T | Failure:
    """The result of some work, or its error as a value."""
    try:
        return work()
    except PanguError as error:
        return Failure(type(error), error.subject, str(error.seen), error.rule, error.fix)
    except OSError as error:
        return Failure(
            WorkspaceError,
            str(error.filename or "workspace"),
            str(error.strerror or error),
            "the volume must accept reads and writes",
            "free space on it or mend its mount; the checkpoints already there are whole",
        )
    except Exception as error:  # whatever it is, the other ranks must hear of it
        logger.exception("unexpected")
        return Failure(
            PanguError,
            "checkpoint",
            f"{type(error).__name__}: {error}",
            "saving and loading must not fail like this",
            "report it with the traceback in this rank's log",
        )


def together(work: Callable[[], T], gather: Gather) -> list[T]:
    """Do this rank's work; returns the results of all ranks in rank order.

    Raises:
        PanguError: the first failing rank's, on every rank.
    """
    return agree(attempt(work), gather)


def agree(outcome: T | Failure, gather: Gather) -> list[T]:
    """Exchange the outcomes of work that is done; returns all results in rank order.

    Raises:
        PanguError: the first failing rank's, on every rank.
    """
    outcomes: list[T | Failure] = gather(outcome)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error()
    return [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
