"""``notify``: one call to a webhook when a job has ended, tried a few times. Never loads torch."""

import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Final

from pangu_core.config.stages import NOTIFY_TOKEN_VARIABLE, NotifyConfig
from pangu_core.entry import process
from pangu_core.errors import RemoteError
from pangu_core.messages import Termination

WAITS_SECONDS: Final = (1.0, 4.0, 16.0, 64.0)  # between five tries
TIMEOUT_SECONDS: Final = 30.0
_LATER: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
logger = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the token is for the address that the user named."""

    def redirect_request(self, *_args: object, **_more: object) -> None:
        """Follow nothing; the answer is then an error."""


def call(
    config: NotifyConfig, *, token: str | None, wait: Callable[[float], None] = time.sleep
) -> Termination:
    """Make the call until it is answered with 2xx; a refusal (4xx) is not tried again.

    Raises:
        RemoteError: refused, or no try succeeded.
    """
    problem = ""
    for seconds in (*WAITS_SECONDS, None):
        try:
            _post(config, token)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            error.close()
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in _LATER:
                break
        except (OSError, ValueError) as error:
            problem = str(error)
        else:
            return Termination(code=0)
        logger.warning("%s: %s", config.url, problem)
        if seconds is not None:
            wait(seconds)
    raise RemoteError(
        "notify.url",
        seen=problem,
        rule="must answer a POST with 2xx",
        fix="look at the receiver; the job itself is not touched by this",
    )


def _post(config: NotifyConfig, token: str | None) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": config.key}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(  # noqa: S310 - the form lets in http and https alone
        config.url, data=config.body.encode(), headers=headers, method="POST"
    )
    opener = urllib.request.build_opener(_NoRedirect)
    answer: IO[bytes]
    with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read(1)


def notify() -> Termination:
    """The pod's work."""
    return call(process.read_config(NotifyConfig), token=os.environ.get(NOTIFY_TOKEN_VARIABLE))


def main() -> None:
    """Run the command; everything comes from the config file."""
    sys.exit(process.run("notify", notify))


if __name__ == "__main__":
    main()
