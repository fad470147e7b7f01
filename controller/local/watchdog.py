"""Kills the pods of a runtime that died without a word. Started as a script; imports no package.

Reads ``+pid`` and ``-pid`` lines from standard input; at its end, which is the runtime's, every
process group still noted is killed. Signals are ignored: it ends when its input ends.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Note process groups until the input ends, then kill those that are left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
