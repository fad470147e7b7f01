"""The call about a job's end: once for each end, and before the job goes."""

import json
from dataclasses import replace

import pytest

from controller.actions import Delete, Notify, Remove
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.reconcile import reconcile
from k8s.status import JobStatus
from pangu_core.messages import Termination

JOB = JobView("novel", "u-1", (StagePlan("preprocess"),), namespace="research", notifies=True)
WRONG = Termination(code=2, error="ConfigError", message="no such file")


def decide(job, status, *views, now=10):
    return reconcile(Observed(job, status, views), now)


def ended(code=0):
    word = Termination(code=0) if code == 0 else WRONG
    phase = "Failed" if code else "Succeeded"
    pod = PodView("p", "u", "0", phase, exit_code=code, termination=word)
    return AttemptView("preprocess", 1, pods=(pod,), succeeded=not code, failed=bool(code))


def notice(number=1, **how):
    return AttemptView("notify", number, **how)


def over(job=JOB, code=0):
    return decide(job, decide(job, JobStatus()).status, ended(code))


def test_an_end_is_told_until_the_call_is_seen_and_then_never_again():
    first = over()
    (action,) = first.actions
    assert isinstance(action, Notify)
    again = decide(JOB, first.status, ended())
    assert again.actions == (action,)
    seen = decide(JOB, again.status, ended(), notice()).status
    assert decide(JOB, seen, ended(), notice()).actions == ()
    assert decide(JOB, seen, ended(), notice(succeeded=True)).actions == ()
    assert decide(JOB, seen, ended()).actions == ()


@pytest.mark.parametrize(
    ("code", "phase", "reason"), [(0, "Complete", "AllStagesDone"), (2, "Failed", "ConfigError")]
)
def test_the_call_says_how_the_job_ended(code, phase, reason):
    (action,) = over(code=code).actions
    words = json.loads(action.body)
    assert (words["phase"], words["reason"], words["exitCode"]) == (phase, reason, code)
    assert (words["job"], words["namespace"], words["end"]) == ("novel", "research", 1)
    assert ("no such file" in words["message"]) == (code == 2)


def test_a_job_that_runs_on_or_asks_for_no_call_makes_none():
    running = decide(JOB, JobStatus())
    assert not any(isinstance(a, Notify) for a in running.actions)
    assert over(replace(JOB, notifies=False)).actions == ()


def test_each_end_is_told_once():
    status = decide(JOB, over().status, ended(), notice(succeeded=True)).status
    job = replace(JOB, rerun_from="preprocess", rerun_number=1)
    again = decide(job, status, ended(), notice(succeeded=True))
    assert Delete("notify", 1) in again.actions
    status = decide(job, again.status).status
    done = replace(ended(), number=2)
    (action,) = decide(job, status, done).actions
    assert action.number == 2


def test_a_job_stays_until_its_end_is_told():
    job = replace(JOB, ttl_seconds=0)
    first = over(job)
    assert Remove() not in first.actions
    seen = decide(job, first.status, ended(), notice()).status
    assert decide(job, seen, ended(), notice()).actions == ()
    assert decide(job, seen, ended(), notice(failed=True)).actions == (Remove(),)
    assert decide(job, seen, ended()).actions == (Remove(),)
