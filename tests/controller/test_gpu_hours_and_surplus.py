"""What becomes of GPUs: seconds used and wasted, limits.gpuHours, surplus that is given back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.actions import Delete, Scale
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.reconcile import reconcile
from controller.transitions import transitions
from controller.usage import counted
from k8s.status import GpuUsage, JobStatus
from pangu_core.messages import Progress

GPUS = 8
PLAN = StagePlan("train", needs_manifest=True, gpus=GPUS)
# Tensor size 16 on nodes of 8 processes: the unit is two nodes.
JOB = JobView(
    "novel", "u-1", (PLAN,), min_nodes=2, max_nodes=4, processes_per_node=8, surplus_seconds=600
)


def decide(job, status, *views, now):
    return reconcile(Observed(job, status, views), now)


def gang(running, nodes, *, step=5, phase="step", replicas=4, pending=0, answers=True):
    pods = [PodView(f"p{i}", f"u{i}", str(i), "Running") for i in range(running)]
    pods += [PodView(f"q{i}", f"v{i}", str(running + i), "Pending") for i in range(pending)]
    progress = Progress(phase=phase, step=step, steps=100, world_size=nodes * 8, round=1)
    return AttemptView(
        "train", 1, pods=tuple(pods), replicas=replicas, progress=progress if answers else None
    )


def play(job, moments):
    """The status after each (time, view) in turn."""
    status = decide(job, JobStatus(), now=0).status
    for now, view in moments:
        status = decide(job, status, view, now=now).status
    return status


def seconds(status, now):
    usage = counted(status.gpu, now)
    return (
        usage.used_seconds,
        usage.waiting_seconds,
        usage.redone_seconds,
        usage.surplus_seconds,
    )


def test_seconds_before_the_first_step_are_spent_waiting():
    status = play(JOB, [(10, gang(4, 4, answers=False)), (40, gang(4, 4))])
    assert seconds(status, 50) == (32 * 40, 32 * 30, 0, 0)


def test_steps_that_are_made_again_are_of_no_use():
    moments = [(0, gang(2, 2, step=50)), (100, gang(2, 2, step=20)), (160, gang(2, 2, step=51))]
    assert seconds(play(JOB, moments), 200) == (16 * 200, 0, 16 * 60, 0)


def test_pods_without_a_place_in_the_round_are_surplus():
    assert seconds(play(JOB, [(0, gang(3, 2))]), 10) == (240, 0, 0, 80)


def test_pods_on_their_way_out_are_no_surplus():
    view = gang(4, 2)
    leaving = [replace(p, kill_at=99) if p.replica > "1" else p for p in view.pods]
    assert seconds(play(JOB, [(0, replace(view, pods=tuple(leaving)))]), 10) == (320, 0, 0, 0)


def test_a_launcher_that_does_not_answer_for_a_while_changes_nothing():
    moments = [(0, gang(3, 2)), (20, gang(3, 2, answers=False))]
    assert seconds(play(JOB, moments), 40) == (960, 0, 0, 320)


def test_nothing_is_counted_without_gpus():
    job = replace(JOB, stages=(replace(PLAN, gpus=0),))
    assert play(job, [(0, gang(4, 4)), (50, gang(4, 4))]).gpu is None


def test_usage_is_not_written_while_nothing_changes():
    waiting = gang(4, 4, answers=False)
    status = play(JOB, [(0, waiting)])
    assert decide(JOB, status, waiting, now=300).status == status


def test_pods_count_until_they_are_gone_also_after_the_end():
    status = play(JOB, [(0, gang(4, 4))])
    job = replace(JOB, cancel=True)
    saving = replace(gang(4, 4), has_main=False, deleting=True)
    status = decide(job, status, saving, now=50).status
    status = decide(job, status, saving, now=60).status
    status = decide(job, status, now=80).status
    assert seconds(status, 500) == (32 * 80, 0, 0, 0)


def test_a_job_ends_when_its_gpu_hours_are_used():
    job = replace(JOB, gpu_hours=16.0)
    first = decide(job, play(job, [(0, gang(4, 4))]), gang(4, 4), now=1)
    assert first.requeue_at == 11
    late = decide(job, first.status, gang(4, 4, answers=False), now=1_799)
    assert (late.status.phase, late.requeue_at) == ("Running", 1_800)
    over = decide(job, late.status, gang(4, 4, answers=False), now=1_800)
    assert over.actions == (Delete("train", 1),)
    assert over.status.condition("Failed").reason == "GpuHoursExceeded"
    assert "16 hours" in over.status.condition("Failed").message


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5)), max_size=9))
def test_the_parts_never_exceed_the_whole(moves):
    usage, now = GpuUsage(), 0
    for wait, held in moves:
        usage = counted(usage, now := now + wait)
        doing = ("wait", "redo", "train")[held % 3]
        usage = replace(usage, held=held, surplus=held // 2, doing=doing)
    end = counted(usage, now)
    parts = end.waiting_seconds + end.redone_seconds + end.surplus_seconds
    assert parts <= end.used_seconds == counted(counted(usage, now), now).used_seconds


def test_pods_that_wait_for_the_rest_of_a_unit_are_given_back():
    short = gang(3, 2, pending=1)
    status = play(JOB, [(0, short), (599, short)])
    assert decide(JOB, status, short, now=599).actions == ()
    decision = decide(JOB, status, short, now=600)
    assert decision.actions == (Scale("train", 1, 2),)
    assert decision.status.attempt is not None
    assert not decision.status.charges
    assert [c.reason for c in transitions(status, decision.status)] == ["SurplusGivenBack"]


def test_what_was_given_back_is_asked_for_again_after_a_wait_that_doubles():
    waits, now = [], 0
    status = play(JOB, [(0, gang(3, 2, pending=1))])
    for _ in range(3):
        now += 600
        status = decide(JOB, status, gang(3, 2, pending=1), now=now).status
        small = gang(2, 2, replicas=2)
        assert decide(JOB, status, small, now=now).requeue_at is not None
        waits.append(status.attempt.regrow_at - now)
        now = status.attempt.regrow_at
        assert decide(JOB, status, small, now=now - 1).actions == ()
        grown = decide(JOB, status, small, now=now)
        assert grown.actions == (Scale("train", 1, 4),)
        status = decide(JOB, grown.status, gang(3, 2, pending=1), now=now).status
    assert waits == [1_200, 2_400, 3_600]


def test_a_gang_that_grew_to_its_full_size_has_patience_anew():
    status = play(JOB, [(0, gang(3, 2, pending=1)), (600, gang(3, 2, pending=1))])
    assert status.attempt.give_backs == 1
    assert decide(JOB, status, gang(4, 4), now=1_900).status.attempt.give_backs == 0


def test_pods_that_cannot_be_placed_stay_where_nobody_waits_for_them():
    alone = gang(2, 2, pending=2)
    status = play(JOB, [(0, alone), (5_000, alone)])
    assert decide(JOB, status, alone, now=5_001).actions == ()


@pytest.mark.parametrize(
    "change", [{"is_queued": True}, {"surplus_seconds": None}], ids=["queued", "on a laptop"]
)
def test_surplus_of_some_jobs_is_left_alone(change):
    view, job = gang(3, 2), replace(JOB, **change)
    status = play(job, [(0, view), (5_000, view)])
    assert decide(job, status, view, now=9_000).actions == ()
