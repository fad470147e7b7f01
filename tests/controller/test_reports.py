"""What a person sees of a run: sentences, plain lines, the live table."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from controller.live_table import picture, time_left
from controller.observe import AttemptView, JobView, PodView, StagePlan
from controller.plain_lines import PlainLines
from controller.story import Snapshot
from controller.transitions import Change, transitions
from k8s.status import Attempt, JobStatus, PastAttempt, StageStatus
from pangu_core.messages import Progress

VIEW = JobView("novel", "u", (StagePlan("preprocess"), StagePlan("train", tokens_per_step=1000)))
STATUS = JobStatus(
    "Running",
    stages=(
        StageStatus("preprocess", "Succeeded", 1, started_at=0, ended_at=6, output="runs/x/data"),
        StageStatus("train", "Running", 2),
    ),
    attempt=Attempt("train", 2, created_at=0),
    restarts={"PeersLost": 1},
    charges=(1,),
)
PROGRESS = Progress(
    phase="step", step=40, steps=300, loss=8.2131, tokens_per_second=1900.4, restarts={"crash": 2}
)
PAST = PastAttempt("train", 2, "Failed", "DataError", charged=True, created_at=1, ended_at=9,
                   code=3, message="no text", rank=1)  # fmt: skip


def snapshot(status=STATUS, progress=PROGRESS, pods=()):
    return Snapshot(status, (AttemptView("train", 2, pods=pods, progress=progress),), now=100.0)


def drawn(shot, width=140):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(picture(shot, VIEW))
    return console.file.getvalue()


def test_the_table_shows_stages_progress_and_restarts_by_cause():
    text = drawn(snapshot())
    assert "succeeded 1       in 6 s" in text
    for part in ("40/300", "8.213", "1,900", "0:02:17"):
        assert part in text
    assert "restarts PeersLost 1, crash 2; budget 1/5" in text


@pytest.mark.parametrize("validation", [None, 9.1234])
def test_the_numbers_fit_on_a_narrow_terminal(validation):
    progress = replace(PROGRESS, step=99_999, steps=100_000, validation_loss=validation,
                       tokens_per_second=1_234_567.0)  # fmt: skip
    text = drawn(snapshot(progress=progress), width=80)
    for part in (
        "99999/100000",
        "8.213",
        "1,234,567",
        "0:00:00",
        *([] if validation is None else ["9.123"]),
    ):
        assert part in text
    assert ("validation" in text) == (validation is not None)


def test_the_table_says_how_long_pods_may_still_save():
    pod = PodView("p", "u", "0", "Running", kill_at=142)
    text = drawn(snapshot(replace(STATUS, phase="Suspending", attempt=None), pods=(pod,)))
    assert "pods have 42 s to save" in text


def test_the_table_counts_down_to_the_next_attempt():
    text = drawn(snapshot(replace(STATUS, attempt=None, retry_at=107)))
    assert "next attempt in 7 s" in text


def test_the_time_left_is_unknown_without_a_speed():
    assert time_left(Progress(phase="step", step=1, steps=9), 1000) == ""


def test_plain_lines_tell_progress_every_ten_seconds():
    out, now = io.StringIO(), [0.0]
    lines = PlainLines(out, clock=lambda: now[0])
    for second in range(21):
        now[0] = float(second)
        lines.show(snapshot(progress=replace(PROGRESS, step=second)))
    told = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert told[0] == "train: step 0/300, loss 8.213, 1,900 tokens/s"
    assert [line.split()[2] for line in told] == ["0/300,", "10/300,", "20/300,"]


def test_each_change_is_one_sentence():
    after = replace(STATUS, attempt=None, phase="Restarting", history=(PAST,), retry_at=12)
    assert transitions(STATUS, after) == (
        Change(
            "AttemptFailed",
            "train: attempt 2 ended (DataError, exit code 3, rank 1, charged to the restart "
            "budget): no text",
            is_warning=True,
        ),
        Change("BackingOff", "the next attempt starts in 3 s"),
    )
    assert transitions(after, after) == ()


def test_a_replaced_pod_is_a_sentence_and_a_failed_attempt_is_only_one():
    after = replace(STATUS, restarts={"PeersLost": 2})
    change = Change("PodReplaced", "a pod was replaced (PeersLost)")
    assert transitions(STATUS, after) == (change,)
    failed = replace(STATUS, restarts={"PeersLost": 1, "DataError": 1}, history=(PAST,))
    assert len(transitions(STATUS, failed)) == 1
