"""What went wrong elsewhere, in four parts; and which of it is worth another try.

The libraries behind fsspec each have their own exceptions. They are told apart by the names of
their classes, so that none of them has to be imported, or even be there.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from pangu_core.errors import ConfigError, PanguError, RemoteError, shorten
from pangu_core.remote.address import shown

ATTEMPTS: Final = 5
_QUERY: Final = re.compile(r"\?[^\s'\"]+")
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fault:
    """How errors of some classes, or answers of some HTTP status, are told."""

    kind: type[PanguError]
    rule: str
    fix: str
    classes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()


# The first that fits holds. A missing file comes late: fsspec takes any failure of the web for one.
_FAULTS: Final = (
    _Fault(
        ConfigError,
        "needs credentials",
        "name a Secret that holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
        "with pangu run, set them in the shell",
        frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}),
    ),
    _Fault(
        ConfigError,
        "the store refuses these credentials",
        "check the keys, their rights and the endpoint",
        frozenset({"PermissionError"}),
        frozenset({401, 403}),
    ),
    _Fault(
        ConfigError,
        "needs a library that is not installed",
        "install it, for s3:// and https:// with pip install 'pangu-finetune[remote]'",
        frozenset({"ImportError"}),
    ),
    _Fault(
        RemoteError,
        "must be reachable from here",
        "check the host's name, the endpoint, the network and the proxy, then run again",
        frozenset(
            {"EndpointConnectionError", "ClientConnectorError", "gaierror", "ConnectionError"}
        ),
    ),
    _Fault(
        RemoteError,
        "the store must answer requests",
        "run again; if it stays so, ask whoever runs the store",
        frozenset({"TimeoutError", "HTTPClientError"}),
        frozenset({408, 429, *range(500, 600)}),
    ),
    _Fault(
        ConfigError,
        "must exist",
        "check the address: bucket, folder and name",
        frozenset({"FileNotFoundError"}),
        frozenset({404, 410}),
    ),
    _Fault(
        ConfigError,
        "must be an address that can be opened",
        "write one such as s3://bucket/folder",
        frozenset({"ValueError", "ParamValidationError", "InvalidURL"}),
    ),
)
_OTHER: Final = _Fault(
    RemoteError,
    "the store must accept reads and writes",
    "run again; if it stays so, ask whoever runs the store",
)


@contextmanager
def told(url: str, subject: str) -> Iterator[None]:
    """Turn whatever is raised inside into one of our errors, about ``subject``.

    Raises:
        ConfigError: another try would not help: no such file, no credentials, no such library.
        RemoteError: it may: the network, the store.
    """
    try:
        yield
    except PanguError:
        raise
    except Exception as error:  # the border to a dozen libraries
        raise explain(error, url=url, subject=subject) from error


def explain(error: Exception, *, url: str, subject: str) -> PanguError:
    """The error in four parts."""
    chain = list(_chain(error))
    classes = {cls.__name__ for each in chain for cls in type(each).__mro__}
    statuses = {s for each in chain if isinstance(s := getattr(each, "status", None), int)}
    fits = (f for f in _FAULTS if f.classes & classes or f.statuses & statuses)
    fault = next(fits, _OTHER)
    detail = " ".join(f"HTTP status {status}" for status in statuses) or _words(chain)
    return fault.kind(subject, seen=f"{shown(url)}: {detail}", rule=fault.rule, fix=fault.fix)


def retrying(
    work: Callable[[], T],
    *,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Do some work again, later and later, as long as it fails with what may get better.

    Raises:
        RemoteError: the last attempt's.
        PanguError: what no other try would mend, at once.
    """
    for attempt in range(1, attempts):
        try:
            return work()
        except RemoteError as error:
            delay = 2.0 ** (attempt - 1)
            logger.warning("%s; another try in %.0f s", error, delay)
            sleep(delay)
    return work()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _words(chain: list[BaseException]) -> str:
    """The innermost error that says something, on one line, without queries of URLs."""
    texts = [" ".join(_QUERY.sub("", str(each)).split()) for each in chain]
    text = next((text for text in reversed(texts) if text), "")
    return shorten(text, 160) if text else type(chain[0]).__name__
