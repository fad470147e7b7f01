"""Requests to stop, as the launcher and the pod's kubelet send them; made once per rank."""

import faulthandler
import signal
from types import FrameType


class StopRequests:
    """Remembers which stop was asked for; the loop asks at step boundaries.

    SIGTERM: this pod must go. SIGUSR1: the gang changes size, leave and take part in the next
    round. SIGUSR2 dumps all stacks to standard error.
    """

    def __init__(self) -> None:
        self.must_go = False
        self.must_regroup = False

    @property
    def is_asked(self) -> bool:
        """Whether this rank was asked to stop, for whatever reason."""
        return self.must_go or self.must_regroup

    def listen(self) -> None:
        """Install the handlers (main thread only)."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGUSR1, self._on_regroup)
        faulthandler.register(signal.SIGUSR2, all_threads=True)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self.must_go = True

    def _on_regroup(self, number: int, frame: FrameType | None) -> None:
        self.must_regroup = True
