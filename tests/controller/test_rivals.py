"""Jobs that cannot all run at the same time: each gets on in its turn."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.actions import Create, Delete
from controller.budget import is_eldest
from controller.cluster.surroundings import lacks_pods
from controller.observe import AttemptView, JobView, Observed, PodView, Rival, StagePlan
from controller.reconcile import reconcile
from k8s.status import JobStatus, to_dict
from pangu_core.messages import Termination

PENDING_SECONDS = 60
RUN_SECONDS = 300


def job(uid, created_at, pods):
    plan = StagePlan("train", needs_manifest=True, min_pods=pods)
    return JobView(
        uid, uid, (plan,), created_at, pending_seconds=PENDING_SECONDS, min_nodes=pods,
        max_nodes=pods,
    )  # fmt: skip


@dataclass
class Machines:
    """A few places for pods, taken by whichever pod comes first."""

    places: int
    jobs: list[JobView]
    status: dict[str, JobStatus] = field(default_factory=dict)
    views: dict[str, AttemptView] = field(default_factory=dict)
    full_since: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def step(self, now):
        for each in self.jobs:
            self.turn(each, now)
        self.place(now)

    def turn(self, each, now):
        status = self.status.get(each.uid, JobStatus())
        view = self.views.get(each.uid)
        observed = Observed(each, status, (view,) if view else (), rivals=self.rivals(each))
        decision = reconcile(observed, now)
        self.status[each.uid] = decision.status
        for action in decision.actions:
            if isinstance(action, Create):
                pods = [PodView(f"{i}", f"{i}", f"{i}", "Pending") for i in range(each.max_nodes)]
                self.views[each.uid] = AttemptView("train", action.attempt, pods=tuple(pods))
            elif isinstance(action, Delete):
                del self.views[each.uid]

    def rivals(self, one):
        waiting = [j for j in self.jobs if j.uid != one.uid and self.is_short(j)]
        return tuple(Rival(j.created_at, j.uid) for j in waiting)

    def is_short(self, each):
        status = self.status.get(each.uid)
        return status is not None and lacks_pods(to_dict(status))

    def place(self, now):
        """One more pod for each job in turn, which is how two gangs block each other."""
        for index in range(5):
            for uid, view in self.views.items():
                taken = sum(p.phase == "Running" for v in self.views.values() for p in v.pods)
                if index < len(view.pods) and taken < self.places:
                    pod = view.pods[index]
                    if pod.phase == "Pending":
                        pods = (*view.pods[:index], replace(pod, phase="Running"))
                        self.views[uid] = replace(view, pods=(*pods, *view.pods[index + 1 :]))
        for uid, view in self.views.items():
            if all(p.phase == "Running" for p in view.pods):
                since = self.full_since.setdefault(uid, now)
                if now - since >= RUN_SECONDS:
                    self.finish(uid, view)

    def finish(self, uid, view):
        word = Termination(code=0, manifest_sha256="ab")
        pods = [replace(p, phase="Succeeded", exit_code=0, termination=word) for p in view.pods]
        self.views[uid] = replace(view, pods=tuple(pods), succeeded=True)
        if uid not in self.finished:
            self.finished.append(uid)


def test_of_two_gangs_that_hold_half_of_the_places_each_the_oldest_keeps_its_own():
    machines = Machines(4, [job("young", 20, 3), job("old", 10, 3)])
    for now in range(100, 100 + PENDING_SECONDS + 20, 5):
        machines.step(now)
    old, young = machines.status["old"], machines.status["young"]
    assert (old.history, old.attempt.short_since) == ((), None)
    assert young.history[-1].cause == "PendingTooLong"
    assert not young.charges


def test_a_job_that_waits_alone_gives_its_pods_back():
    machines = Machines(2, [job("alone", 10, 3)])
    for now in range(100, 100 + PENDING_SECONDS + 10, 5):
        machines.step(now)
    assert machines.status["alone"].history[-1].cause == "PendingTooLong"


def test_an_old_job_that_can_never_run_does_not_hold_up_a_young_one():
    machines = Machines(4, [job("old", 10, 5), job("young", 20, 3)])
    for now in range(100, 5_000, 5):
        machines.step(now)
    assert machines.finished == ["young"]


def test_age_decides_and_then_the_uid():
    one = job("b", 10, 1)
    assert not is_eldest(one, ())
    assert is_eldest(one, (Rival(11, "a"), Rival(10, "c")))
    assert not is_eldest(one, (Rival(11, "a"), Rival(10, "a")))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 50)), min_size=2, max_size=4))
def test_whatever_the_gangs_all_of_them_finish(gangs):
    jobs = [job(f"job-{i}", created, pods) for i, (pods, created) in enumerate(gangs)]
    machines = Machines(4, jobs)
    for now in range(100, 20_000, 10):
        machines.step(now)
        if len(machines.finished) == len(jobs):
            return
    raise AssertionError(machines.status)
