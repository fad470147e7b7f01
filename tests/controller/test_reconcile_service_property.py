"""Reconcile of a service against a simulated API server, through random orders of events."""

import copy
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.cluster.service_worker import service_view
from controller.observe import ClaimView
from controller.service.objects import Apply
from controller.service.observe import ObservedService
from controller.service.reconcile import reconcile_service
from k8s import names
from k8s.spec import read_service
from k8s.status import ServiceStatus, service_from_dict, to_dict

SPECS = [
    {},
    {"replicas": 0},
    {"replicas": 3, "model": "runs/other/model"},
    {"autoscale": {"max": 4, "waiting": 2}},
    {"autoscale": {"max": 4, "waiting": 2, "prometheus": "http://p"}},
    {"pods": {"schedulerName": "other", "resources": {}}},
]
VIEWS = [
    service_view(
        read_service(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.SERVICE_KIND,
                "metadata": {"name": "novel", "namespace": "n", "uid": "u-1"},
                "spec": {"image": "i", "workspace": {"claimName": "w"}, "model": "m", **spec},
            }
        )
    )
    for spec in SPECS
]
SHARED = ClaimView("Bound", ("ReadWriteMany",))
KEDA = frozenset({"HorizontalPodAutoscaler", "ScaledObject"})
EVENTS = st.one_of(
    st.tuples(st.just("change"), st.integers(0, len(SPECS) - 1)),
    st.tuples(st.just("roll"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.integers(0, 4)),
    st.tuples(st.just("edit"), st.integers(0, 4)),
    st.tuples(st.just("keda"), st.booleans()),
    st.tuples(st.just("claim"), st.booleans()),
    st.tuples(st.just("crash")),
)


@dataclass
class World:
    """API server and Deployment controller in miniature."""

    view: object = VIEWS[0]
    objects: dict = field(default_factory=dict)
    status: ServiceStatus = field(default_factory=ServiceStatus)
    installed: frozenset = KEDA
    claim: ClaimView | None = SHARED
    num_made: int = 0
    now: float = 1_000.0

    def observe(self):
        objects = tuple(copy.deepcopy(each) for each in self.objects.values())
        return ObservedService(
            self.view, self.status, objects, claim=self.claim, installed=self.installed
        )

    def step(self, *, crash=False):
        """One pass; a crash is between writing the status and carrying out the actions."""
        self.now += 1
        before = self.observe()
        decision = reconcile_service(before, self.now)
        assert reconcile_service(before, self.now) == decision
        assert service_from_dict(to_dict(decision.status)) == decision.status
        self.status = decision.status
        for action in () if crash else decision.actions:
            self.carry_out(action)
        return decision

    def carry_out(self, action):
        if not isinstance(action, Apply):
            metadata = action.item["metadata"]
            kept = self.objects.pop((action.item["kind"], metadata["name"]))
            assert kept["metadata"]["uid"] == metadata["uid"]
            return
        manifest = copy.deepcopy(dict(action.manifest))
        key = (manifest["kind"], manifest["metadata"]["name"])
        assert key[0] != "ScaledObject" or "ScaledObject" in self.installed
        old = self.objects.get(key)
        self.num_made += old is None
        generation = old["metadata"]["generation"] + 1 if old else 1
        uid = old["metadata"]["uid"] if old else f"uid-{self.num_made}"
        manifest["metadata"] |= {"uid": uid, "generation": generation}
        self.objects[key] = manifest | {"status": old["status"] if old else {}}

    def apply(self, event):
        name, *values = event
        value = values[0] if values else None
        if name == "change":
            self.view = VIEWS[value]
        elif name == "roll":
            self.roll(value)
        elif name == "remove":
            self.objects = dict(list(self.objects.items())[: -value or None])
        elif name == "edit" and len(self.objects) > value:
            item = list(self.objects.values())[value]
            if "spec" in item:
                item["spec"] = {}
        elif name == "keda":
            self.installed = KEDA if value else frozenset({"HorizontalPodAutoscaler"})
            if not value:
                self.objects = {k: v for k, v in self.objects.items() if k[0] != "ScaledObject"}
        elif name == "claim":
            self.claim = SHARED if value else None

    def roll(self, num_updated):
        for kind, item in ((key[0], each) for key, each in self.objects.items()):
            if kind == "Deployment" and "replicas" in item["spec"]:
                count = item["spec"]["replicas"]
                done = min(num_updated, count)
                item["status"] = {
                    "observedGeneration": item["metadata"]["generation"],
                    "replicas": count,
                    "updatedReplicas": done,
                    "availableReplicas": done,
                    "readyReplicas": done,
                }

    def settle(self):
        self.apply(("claim", True))
        self.apply(("keda", True))
        for _ in range(4):
            self.step()
            self.roll(9)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_any_order_of_events_ends_with_what_is_wanted_and_then_nothing_is_written(events):
    world = World()
    for event in events:
        world.apply(event)
        world.step(crash=event[0] == "crash")
    world.settle()
    wanted = {(each["kind"], each["metadata"]["name"]) for each in world.view.wanted}
    assert set(world.objects) == wanted
    assert world.status.condition("Progressing").reason == "UpToDate"
    last = world.step()
    assert (last.actions, last.requeue_at) == ((), None)
    again = world.step()
    assert (again.actions, again.status) == ((), last.status)
