"""SIGTERM in every phase of a pod: 143 within the grace period, and nothing is lost."""

import signal
import time

import psutil
import pytest

from tests.elastic.processes import has_ended
from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

GRACE_SECONDS = 20
SAVED = "asked to stop; saved at a step boundary"
NOTHING_YET = "asked to stop; no step was made yet"
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
    processes = psutil.Process(gang.launchers["pod"].pid).children(recursive=True)
    gang.send("pod", signal.SIGTERM)
    begin = time.monotonic()
    code, words = gang.exit("pod")
    assert code == 143, gang.tails()
    assert time.monotonic() - begin < GRACE_SECONDS
    assert all(has_ended(process.pid) for process in processes)
    return words


def test_sigterm_while_a_pod_waits_for_others_ends_it_at_once(make_gang):
    gang = make_gang(low=2, high=2)
    gang.start_store()
    assert stop_in("wait", gang).message == "asked to stop; it had no ranks"


def test_sigterm_while_layers_compile_ends_ranks_and_their_compilers(make_gang, tmp_path):
    gang = make_gang(
        settings={"train": {"compile": True}},
        environment={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")},
    )
    gang.start_store()
    assert stop_in("compile", gang).message == NOTHING_YET


def test_sigterm_within_every_other_phase_loses_nothing(make_gang, undisturbed):
    gang = make_gang(processes=2, grace_seconds=GRACE_SECONDS, settings=SETTINGS)
    gang.start_store()
    assert stop_in("start", gang).message == NOTHING_YET
    gang.pace(step=0.3)
    step = stop_in("step", gang)
    gang.pace(save=2.0)
    save = stop_in("save", gang)
    gang.pace()
    evaluation = stop_in("evaluate", gang)
    assert "the evaluation was broken off by a stop" in gang.log("pod")
    assert {words.message for words in (step, save, evaluation)} == {SAVED}
    assert 0 < step.step < save.step < evaluation.step
    gang.start("pod")
    assert distance(gang.finish(), undisturbed(1, 2)) == 0.0
    assert [e["step"] for e in gang.metrics("start")][1:] == [step.step, save.step, evaluation.step]
