import pytest

from controller.cluster.api import ApiError
from controller.cluster.kinds import CONFIG_MAP
from controller.cluster.territory import MARK, REMEMBERED_SECONDS, Territory


class Server:
    """Answers for the one object that is asked for."""

    def __init__(self):
        self.marked, self.asked, self.status = {"products"}, 0, 404

    def get(self, kind, namespace, name):
        assert (kind, name) == (CONFIG_MAP, MARK)
        self.asked += 1
        if namespace not in self.marked:
            raise ApiError(self.status, "", "")
        return {}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def everywhere(server, clock):
    return Territory(server, is_everywhere=True, clock=clock)


def test_a_controller_of_all_namespaces_leaves_marked_ones_alone(everywhere):
    assert everywhere.has("research")
    assert not everywhere.has("products")


def test_a_controller_of_named_namespaces_asks_nobody(server):
    assert Territory(server, is_everywhere=False).has("products")
    assert server.asked == 0


def test_an_answer_holds_for_a_moment(everywhere, server, clock):
    assert everywhere.has("research")
    server.marked.add("research")
    assert everywhere.has("research")
    clock.now += REMEMBERED_SECONDS
    assert not everywhere.has("research")
    assert server.asked == 2


def test_no_answer_is_no_leave(everywhere, server):
    server.status = 503
    with pytest.raises(ApiError):
        everywhere.has("research")
