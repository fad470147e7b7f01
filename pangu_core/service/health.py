"""Whether the service lives, and whether it should get requests; the drain is a part of it."""

import asyncio
from typing import Final

from pangu_core.errors import PanguError
from pangu_core.service.engine import QueueFullError
from pangu_core.service.writing import Served, produce_token

FRESH_SECONDS: Final = 10.0  # a token as young as this says that the model works
PROBE_SECONDS: Final = 3.0  # for one token, where there is none so young; below a probe's time-out


class Health:
    """The two probes, and where the service is between start and end.

    Args:
        served: the model.
        stall_seconds: work without a token for so long counts as stuck.

    Attributes:
        draining: the end has been asked for: no new traffic should come here.
        closed: requests are no longer taken on.
        num_open: requests that are being answered.
    """

    def __init__(self, served: Served, *, stall_seconds: float) -> None:
        self.draining = False
        self.closed = False
        self.num_open = 0
        self._served = served
        self._stall_seconds = stall_seconds
        self._one_probe = asyncio.Lock()

    def why_dead(self) -> str | None:
        """Why the process should be replaced; None: it lives."""
        stats = self._served.engine.stats()
        if stats.error is not None:
            return f"the engine has ended: {stats.error}"
        if stats.stalled_seconds > self._stall_seconds:
            return f"no token for {stats.stalled_seconds:.0f} s, with work to do"
        return None

    async def why_not_ready(self) -> str | None:
        """Why no requests should come; None: a token was made lately, or just now for this."""
        if self.draining:
            return "draining"
        if (reason := self.why_dead()) is not None:
            return reason
        async with self._one_probe:
            return None if self._is_fresh() else await self._why_no_token()

    def _is_fresh(self) -> bool:
        stats = self._served.engine.stats()
        return stats.num_tokens > 0 and stats.idle_seconds < FRESH_SECONDS

    async def _why_no_token(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await produce_token(self._served)
        except TimeoutError:
            return f"no token within {PROBE_SECONDS:.0f} s"
        except (PanguError, QueueFullError) as error:
            return f"no token: {error or 'the queue is full'}"
        return None
