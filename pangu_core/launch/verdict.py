"""What the ends of a node's ranks mean for its launcher. Pure."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pangu_core.errors import (
    EXIT_REJOIN,
    EXIT_STOPPED,
    EXIT_UNEXPECTED,
    PanguError,
    RendezvousError,
    StallError,
)
from pangu_core.launch.heartbeat import Pulse
from pangu_core.messages import Termination

# wait: some ranks still run, and that is as it should be
# rejoin: all left at a step boundary
# lost: peers on another node went away
# crash: a rank was killed by a signal
# oom: by the kernel, for memory
# failed: a rank raised, or ended without a result
# complete: all ended after the result was committed
Kind = Literal["wait", "rejoin", "lost", "crash", "oom", "failed", "complete"]
_LEFT = (EXIT_STOPPED, EXIT_REJOIN)
_HARMLESS = (0, RendezvousError.exit_code, *_LEFT)


@dataclass(frozen=True)
class Verdict:
    """What happened, and the local rank that shows it."""

    kind: Kind
    local_rank: int | None = None
    code: int | None = None


def judge(
    codes: Sequence[int | None], errors: Mapping[int, Termination], *, done: bool, oom: bool
) -> Verdict:
    """Judge exit codes by local rank; None: still running, negative: killed by that signal.

    ``errors`` holds what ranks wrote before they failed: a rank that was killed while it died of
    an error of its own still ends the attempt. ``done``: the result is committed; nothing that
    happens afterwards can spoil it.
    """
    ended = {rank: code for rank, code in enumerate(codes) if code is not None}
    running = len(ended) < len(codes)
    if done:
        return Verdict("wait" if running else "complete")
    told = {r: errors[r].code if r in errors and code < 0 else code for r, code in ended.items()}
    fatal = {r: code for r, code in told.items() if code not in _HARMLESS and not 0 < code < 128}
    for rank in sorted(told, key=lambda r: r not in errors):
        # Beside a rank that was killed, an error without a class is most likely its echo.
        if 0 < told[rank] < 128 and not (fatal and told[rank] == EXIT_UNEXPECTED):
            return Verdict("failed", rank, told[rank])
    for rank, code in fatal.items():
        return Verdict("oom" if oom else "crash", rank, code)
    if RendezvousError.exit_code in ended.values():
        return Verdict("lost")
    if running:
        return Verdict("wait")
    if any(code in _LEFT for code in ended.values()):
        return Verdict("rejoin")
    return Verdict("failed", 0, 1)  # exit 0, but no result: success is the manifest


def died(rank: int, code: int | None, *, oom: bool) -> PanguError:
    """The error of a rank that left no words of its own."""
    how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
    if oom:
        fix = "ask for more memory for the pod, or lower train.microBatchSize"
    else:
        fix = "read the log of this rank's pod above this line"
    return PanguError(f"rank {rank}", seen=how, rule="must end with a committed result", fix=fix)


def stalled(rank: int | None, pulse: Pulse, limit: float) -> StallError:
    """The error of a rank that fell silent."""
    return StallError(
        f"rank {rank}",
        seen=f"no heartbeat for {limit:.0f} s in phase {pulse.phase}, after step {pulse.step}",
        rule="must give a sign of life within the limit of its phase",
        fix="read its stacks in the log; if it was only slow, raise train.hang.floorSeconds",
    )
