"""Tie a rank's life to its launcher's: a launcher killed by SIGKILL leaves no rank behind.

Called by the rank itself as its first act; imports nothing heavy.
"""

import ctypes
import os
import signal
from typing import Final

LAUNCHER_VARIABLE: Final = "PANGU_LAUNCHER_PID"
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel send SIGKILL when the launcher that the environment names is gone.

    Without a launcher (a rank started by hand or by torchrun) this does nothing.
    """
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(launcher):  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)
