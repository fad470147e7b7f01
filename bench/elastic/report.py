"""Results as one table, in Markdown, with the bars that ours must keep."""

import statistics
from collections.abc import Sequence

from bench.elastic.cases import BAR_SECONDS, CALM_SECONDS, CASES, Case
from bench.elastic.measuring import Result
from bench.elastic.stacks import STACKS, Stack


def table(results: Sequence[Result], *, limit_seconds: float) -> str:
    """Faults by stack: the median of the runs, and their range."""
    stacks = [s for s in STACKS if any(r.stack == s.name for r in results)]
    cases = [c for c in CASES if any(r.case == c.name for r in results)]
    head = ["fault", *(s.title for s in stacks), "bar", "beyond"]
    if any(s.is_ours for s in stacks):
        head.append("ours")
    rows = [head, ["---"] * len(head)]
    for case in cases:
        row = [case.title]
        row += [_cell(_runs(results, case, s), case, s, limit_seconds) for s in stacks]
        row += _bars(case)
        if any(s.is_ours for s in stacks):
            ours = [r for s in stacks if s.is_ours for r in _runs(results, case, s)]
            row.append(judgement(case, ours))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        [c.ljust(w, "-" if c == "---" else " ") for c, w in zip(r, widths, strict=True)]
        for r in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def timelines(results: Sequence[Result]) -> str:
    """Where the seconds of our columns went: when the last rank of the new gang had got there."""
    lines = []
    for result in results:
        if result.timeline:
            spent = ", ".join(f"{event} {at:.1f}" for event, at in result.timeline.items())
            lines.append(f"{result.stack}, {result.case}: {spent}")
    return "\n".join(lines)


def describe(result: Result, limit_seconds: float) -> str:
    """One result in words."""
    if result.started_seconds is None:
        return "did not start"
    if result.seconds is None:
        return f"did not recover in {limit_seconds:.0f} s"
    if result.is_undisturbed:
        return f"no effect (longest step {result.seconds:.2f} s)"
    return f"{result.seconds:.1f} s"


def judgement(case: Case, ours: Sequence[Result]) -> str:
    """Whether all runs of our columns keep the bars."""
    if not ours:
        return ""
    seconds = [r.seconds for r in ours]
    if case.measure == "undisturbed":
        return "pass" if all(r.is_undisturbed for r in ours) else "miss"
    if any(s is None or s > max(BAR_SECONDS, case.beyond_seconds) for s in seconds):
        return "miss"
    return "beyond" if all(s is not None and s <= case.beyond_seconds for s in seconds) else "pass"


def _cell(runs: Sequence[Result], case: Case, stack: Stack, limit_seconds: float) -> str:
    if not runs:
        return f"as {case.stock_is}" if case.stock_is and not stack.is_ours else ""
    text = _summary(runs, limit_seconds)
    odd = sorted({w for r in runs for w in r.worlds if w % 2})
    if not stack.is_ours and odd:
        text += f"; world {', '.join(map(str, odd))}: not for TP 2"
    return text


def _summary(runs: Sequence[Result], limit_seconds: float) -> str:
    if len(runs) == 1 or any(r.seconds is None or r.is_undisturbed for r in runs):
        return "; ".join(dict.fromkeys(describe(r, limit_seconds) for r in runs))
    seconds = sorted(r.seconds for r in runs if r.seconds is not None)
    return f"{statistics.median(seconds):.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})"


def _bars(case: Case) -> list[str]:
    if case.measure == "undisturbed":
        return [f"no step over {CALM_SECONDS:.0f} s", ""]
    return [f"{BAR_SECONDS:.0f} s", f"{case.beyond_seconds:.0f} s"]


def _runs(results: Sequence[Result], case: Case, stack: Stack) -> list[Result]:
    return [r for r in results if (r.case, r.stack) == (case.name, stack.name)]
