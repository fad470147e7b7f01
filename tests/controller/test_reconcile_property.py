"""Reconcile against a simulated cluster, through random orders of events."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.actions import Create, Delete, Notify, Release, Scale
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.reconcile import reconcile
from controller.usage import counted
from k8s.status import JobStatus, from_dict, to_dict
from pangu_core.messages import Progress, Termination

STAGES = ("convert", "preprocess", "train", "merge")
ENDS = st.sampled_from([0, 0, 0, 1, 2, 3, 7, 137, 139, 143, 201])
EVENTS = st.one_of(
    st.tuples(st.just("run"), st.integers(0, 2)),
    st.tuples(st.just("end"), st.integers(0, 2), ENDS, st.sampled_from(["", "OOMKilled"])),
    st.tuples(st.just("operate")),
    st.tuples(st.just("collect")),
    st.tuples(st.just("vanish")),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("cancel"), st.booleans()),
    st.tuples(st.just("rerun"), st.sampled_from(STAGES)),
    st.tuples(st.just("crash")),
    st.tuples(st.just("wait"), st.integers(1, 400)),
    st.tuples(st.just("answer"), st.integers(0, 9), st.sampled_from([1.0, 1e4]), st.integers(0, 3)),
)


@dataclass
class Cluster:
    """API server, operator and kubelet in miniature."""

    views: dict[tuple[str, int], AttemptView] = field(default_factory=dict)
    num_pods: int = 0
    num_created: dict[tuple[str, int], int] = field(default_factory=dict)

    def carry_out(self, action):
        if isinstance(action, Notify):
            self.notify(("notify", action.number))
            return
        key = (action.stage, action.attempt)
        if isinstance(action, Create):
            assert key not in self.views
            self.num_created[key] = self.num_created.get(key, 0) + 1
            count = 3 if action.stage == "train" else 1
            pods = tuple(self.new_pod(str(i)) for i in range(count))
            replicas = count if count > 1 else None
            self.views[key] = AttemptView(*key, pods=pods, has_helpers=count > 1, replicas=replicas)
        elif isinstance(action, Scale):
            self.scale(key, action.replicas)
        elif isinstance(action, Delete):
            self.views[key] = replace(self.views[key], deleting=True, has_main=False)
        elif isinstance(action, Release):
            view = self.views[key]
            assert not any(pod.is_active for pod in view.pods), "pods lost their store"
            self.views[key] = replace(view, has_helpers=False)

    def notify(self, key):
        self.num_created[key] = self.num_created.get(key, 0) + 1
        self.views[key] = AttemptView(*key, pods=(self.new_pod("0"),))

    def scale(self, key, replicas):
        view = self.views[key]
        assert 1 <= replicas <= 3
        pods = [p for p in view.pods if int(p.replica) < replicas]
        there = {p.replica for p in pods if p.is_active}
        pods += [self.new_pod(str(i)) for i in range(replicas) if str(i) not in there]
        self.views[key] = replace(view, replicas=replicas, pods=tuple(pods))

    def new_pod(self, replica):
        self.num_pods += 1
        return PodView(f"p{replica}", f"uid-{self.num_pods}", replica, "Pending")

    def change_pod(self, index, change):
        for key, view in self.views.items():
            active = [p.uid for p in view.pods if p.is_active]
            chosen = active[index] if index < len(active) else None
            pods = [change(p) if p.uid == chosen else p for p in view.pods]
            self.views[key] = replace(view, pods=tuple(pods))

    def end(self, index, code, reason):
        def change(pod):
            if pod.phase != "Running":
                return pod
            word = Termination(code=code, manifest_sha256="ab" if code == 0 else None, step=1)
            phase = "Failed" if code else "Succeeded"
            why = reason if code == 137 else ""
            return replace(pod, phase=phase, exit_code=code, reason=why, termination=word)

        self.change_pod(index, change)

    def operate(self):
        """Replace pods that ended with 128 and above; set the main objects' conditions."""
        for key, view in self.views.items():
            if view.deleting or view.is_finished:
                continue
            codes = [p.exit_code for p in view.pods]
            if any(c is not None and 0 < c < 128 for c in codes):
                self.views[key] = replace(view, failed=True)
            elif 0 in codes:
                kept = tuple(p for p in view.pods if not p.is_active)
                self.views[key] = replace(view, succeeded=True, pods=kept)
            elif key[0] == "train":
                pods = [self.new_pod(p.replica) if p.phase == "Failed" else p for p in view.pods]
                self.views[key] = replace(view, pods=tuple(pods))
            elif not any(p.is_active for p in view.pods):
                # A Job keeps the pods that failed.
                self.views[key] = replace(view, pods=(*view.pods, self.new_pod("0")))

    def collect(self):
        """Remove what was deleted: pods and main objects, and views that hold nothing more."""
        for key, view in list(self.views.items()):
            if view.deleting and view.has_helpers:
                self.views[key] = replace(view, pods=())
            elif view.deleting:
                del self.views[key]

    def apply(self, event):
        name, *values = event
        if name == "run":
            self.change_pod(
                values[0], lambda p: replace(p, phase="Running") if p.phase == "Pending" else p
            )
        elif name == "end":
            self.end(*values)
        elif name == "operate":
            self.operate()
        elif name == "collect":
            self.collect()
        elif name == "vanish":
            self.views = dict(list(self.views.items())[:-1])
        elif name == "answer":
            step, age, nodes = values
            answer = Progress(
                phase="step", step=step, steps=9, last_step_age_seconds=age, world_size=nodes
            )
            for key, view in self.views.items():
                has_launcher = key[0] == "train" and any(p.phase == "Running" for p in view.pods)
                self.views[key] = replace(view, progress=answer if has_launcher else None)


@dataclass
class World:
    job: JobView
    cluster: Cluster = field(default_factory=Cluster)
    status: JobStatus = field(default_factory=JobStatus)
    now: float = 1_000.0

    def observe(self):
        return Observed(self.job, self.status, tuple(self.cluster.views.values()))

    def step(self, *, crash=False):
        """One pass; a crash is between writing the status and carrying out the actions."""
        before = self.observe()
        decision = reconcile(before, self.now)
        assert reconcile(before, self.now) == decision
        assert from_dict(to_dict(decision.status)) == decision.status
        self.check(decision)
        self.status = decision.status
        if not crash:
            for action in decision.actions:
                self.cluster.carry_out(action)

    def check(self, decision):
        for action in decision.actions:
            if isinstance(action, Create):
                alive = [v for v in self.cluster.views.values() if v.stage == action.stage]
                assert not alive, "two attempts of one stage"
        states = [s.is_done for s in decision.status.stages]
        assert states == sorted(states, reverse=True), "a stage was lost"
        assert len(decision.status.stages) == len(STAGES)
        if decision.status.gpu:
            gpu = counted(decision.status.gpu, self.now)
            wasted = gpu.waiting_seconds + gpu.redone_seconds + gpu.surplus_seconds
            assert wasted <= gpu.used_seconds
        recent = [t for t in decision.status.charges if t > self.now - 3_600]
        assert len(recent) <= self.job.restart_limit + (decision.status.phase == "Failed")

    def settle(self):
        """Play on with a cluster that does what it should, until nothing happens any more."""
        self.job = replace(self.job, suspend=False, cancel=False)
        for _ in range(200):
            for index in range(3):
                self.cluster.apply(("run", index))
            self.cluster.apply(("end", 0, 0, ""))
            self.step()
            self.cluster.operate()
            self.cluster.apply(("collect",))
            self.now += 400
            if self.status.is_terminal:
                return
        pytest.fail("does not end")


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.integers(0, 3), st.sampled_from([None, 300]))
def test_any_order_of_events_ends_and_never_runs_two_attempts(events, limit, pending):
    plans = tuple(StagePlan(s, needs_manifest=s == "train", gpus=s == "train") for s in STAGES)
    job = JobView(
        "novel", "u-1", plans, restart_limit=limit, pending_seconds=pending, max_nodes=3,
        surplus_seconds=100, notifies=True,
    )  # fmt: skip
    world = World(job)
    for event in events:
        if event[0] in ("suspend", "cancel"):
            world.job = replace(world.job, **{event[0]: event[1]})
        elif event[0] == "rerun":
            number = world.job.rerun_number + 1
            world.job = replace(world.job, rerun_from=event[1], rerun_number=number)
        elif event[0] == "wait":
            world.now += event[1]
        elif event[0] == "vanish":
            world.step()
            world.step()  # what was created is now seen; otherwise it is created again, by right
        world.cluster.apply(event)
        world.step(crash=event[0] == "crash")
    world.settle()
    assert world.status.phase in ("Failed", "Cancelled") or all(
        s.is_done for s in world.status.stages
    )
    assert max(world.cluster.num_created.values(), default=1) == 1
    rest(world)


def rest(world):
    """After the end: what still ran is removed, and then nothing is done any more."""
    world.now += 400
    for _ in range(4):
        world.step()
        world.cluster.apply(("collect",))
    before = reconcile(world.observe(), world.now)
    assert before.actions == ()
    assert before.status == world.status
    assert not any(v.has_helpers for v in world.cluster.views.values())
