"""What the doctor says: one line for each thing that was looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from controller.cluster.api import ApiError

Object = dict[str, Any]
State = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing, how it is, and the command that mends it."""

    subject: str
    state: State
    seen: str
    fix: str = ""


class Server(Protocol):
    """What a check needs of the API server."""

    namespace: str

    def request(self, method: str, path: str, query: Any = None, body: Any = None) -> Object:
        """One request, one JSON answer.

        Raises:
            ApiError: it was refused.
        """


Check = Callable[[Server], Iterator[Finding]]


def found(server: Server, path: str, query: dict[str, str] | None = None) -> Object | None:
    """What lies at a path; None if there is nothing.

    Raises:
        ApiError: it may not be looked at, or there is no answer.
    """
    try:
        return server.request("GET", path, query or {})
    except ApiError as error:
        if error.is_missing:
            return None
        raise


def examined(server: Server, checks: dict[str, Check]) -> Iterator[Finding]:
    """What every check finds; one that may not look says so, and the next goes on.

    Raises:
        ApiError: the server does not answer.
    """
    for subject, check in checks.items():
        try:
            yield from check(server)
        except ApiError as error:
            if error.status not in (401, 403):
                raise
            yield Finding(
                subject, "note", f"may not be looked at: {error}",
                "ask somebody who may read it to run 'pangu doctor'",
            )  # fmt: skip
