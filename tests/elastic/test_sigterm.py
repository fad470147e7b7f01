"""SIGTERM in every phase of a pod: 143 within the grace period, and nothing is lost."""

import signal
import time

import pytest

from tests.elastic.gang import has_ended
from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

GRACE_SECONDS = 20
SAVED = "saved at a step boundary"
# An evaluation takes seconds, and is cut short; a save keeps training waiting.
SETTINGS = {
    "train": {
        "evaluate": {"everySteps": 8, "batches": 1000},
        "checkpoint": {"asynchronous": False},
    }
}


def stop_in(phase, gang):
    """Send SIGTERM when the pod says that it is in a phase; its last words."""
    gang.start("pod")
    gang.wait(lambda: (gang.progress("pod") or {}).get("phase") == phase, f"phase {phase}")
    ranks = gang.ranks()
    gang.send("pod", signal.SIGTERM)
    begin = time.monotonic()
    code, words = gang.exit("pod")
    assert code == 143, gang.tails()
    assert time.monotonic() - begin < GRACE_SECONDS
    assert all(has_ended(rank.pid) for rank in ranks)
    return words


def test_sigterm_while_a_pod_waits_for_others_ends_it_at_once(make_gang):
    gang = make_gang(low=2, high=2)
    gang.start_store()
    assert stop_in("wait", gang).message == "asked to stop; it had no ranks"


def test_sigterm_within_every_phase_loses_nothing(make_gang, undisturbed):
    gang = make_gang(processes=2, grace_seconds=GRACE_SECONDS, settings=SETTINGS)
    gang.start_store()
    for phase, pace in [("start", {}), ("compile", {"compile": 60.0})]:
        gang.pace(**pace)
        assert stop_in(phase, gang).message == "asked to stop; no step was made yet"
    gang.pace(step=0.3)
    step = stop_in("step", gang)
    gang.pace(save=2.0)
    save = stop_in("save", gang)
    gang.pace()
    evaluation = stop_in("evaluate", gang)
    assert "the evaluation was broken off by a stop" in gang.log("pod")
    assert {w.message for w in (step, save, evaluation)} == {f"asked to stop; {SAVED}"}
    assert 0 < step.step < save.step < evaluation.step
    gang.start("pod")
    assert distance(gang.finish(), undisturbed(1, 2)) == 0.0
    assert [e["step"] for e in gang.metrics("start")][1:] == [step.step, save.step, evaluation.step]
