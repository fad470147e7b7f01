import threading
import time

import pytest

from controller.cluster.api import ApiError
from controller.cluster.lease import LeaseLoop, Timing

QUICK = Timing(duration=1.0, deadline=0.6, retry=0.05)


class Server:
    """Holds one Lease, refuses stale writes, and may be away."""

    def __init__(self):
        self.lock, self.lease, self.version = threading.Lock(), None, 0
        self.away = set()

    def of(self, who):
        return Access(self, who)

    def store(self, body):
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**body, "metadata": metadata}

    @property
    def holder(self):
        return self.lease["spec"]["holderIdentity"] if self.lease else ""


class Access:
    """The server as one replica reaches it."""

    def __init__(self, server, who):
        self.server, self.who = server, who

    def get(self, kind, namespace, name):
        self._reach()
        if self.server.lease is None:
            raise ApiError(404, "NotFound", "")
        return self.server.lease

    def create(self, kind, body, namespace):
        self._reach()
        with self.server.lock:
            if self.server.lease is not None:
                raise ApiError(409, "AlreadyExists", "")
            self.server.store(body)

    def replace(self, kind, body):
        self._reach()
        with self.server.lock:
            if body["metadata"]["resourceVersion"] != str(self.server.version):
                raise ApiError(409, "Conflict", "")
            self.server.store(body)

    def _reach(self):
        if self.who in self.server.away:
            raise ApiError(0, "Unreachable", "away")


class Replica:
    """A loop in a thread, and what it was told."""

    def __init__(self, server, who):
        self.loop = LeaseLoop(
            server.of(who), namespace="a", name="lease", identity=who, timing=QUICK
        )
        self.held, self.lost, self.result = threading.Event(), threading.Event(), []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.result.append(self.loop.hold(self.held.set, self.lost.set))

    def stop(self):
        self.loop.stop()
        self.thread.join(timeout=5)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def start(server):
    started = []

    def make(who):
        started.append(Replica(server, who))
        return started[-1]

    yield make
    for replica in started:
        replica.stop()


def test_one_of_two_holds_the_lease(server, start):
    first = start("one")
    assert first.held.wait(5)
    second = start("two")
    assert not second.held.wait(2.0)  # twice as long as an abandoned Lease would last
    assert server.holder == "one"


def test_a_lease_that_is_given_back_is_free_at_once(server, start):
    first, second = start("one"), None
    assert first.held.wait(5)
    first.stop()
    assert (first.result, server.holder) == ([True], "")
    second = start("two")
    assert second.held.wait(5)
    assert server.lease["spec"]["leaseTransitions"] == 2


def test_a_holder_that_cannot_renew_stops_before_another_begins(server, start):
    first = start("one")
    assert first.held.wait(5)
    second = start("two")
    server.away.add("one")
    assert second.held.wait(5)
    assert first.lost.is_set()
    first.thread.join(5)
    assert first.result == [False]


def test_a_holder_that_hangs_is_followed_when_its_lease_is_over(server, start):
    server.store({"metadata": {"name": "lease"}, "spec": {"holderIdentity": "dead"}})
    begin = time.monotonic()
    second = start("two")
    assert second.held.wait(5)
    assert time.monotonic() - begin >= QUICK.duration


def test_who_waits_can_be_stopped(server, start):
    server.store({"metadata": {"name": "lease"}, "spec": {"holderIdentity": "dead"}})
    second = start("two")
    second.stop()
    assert second.result == [True]
    assert not second.held.is_set()
