import threading

import pytest

from controller.cluster import reflector as module
from controller.cluster.api import ApiError, WatchEvent
from controller.cluster.cache import Cache
from controller.cluster.kinds import CONFIG_MAP
from controller.cluster.reflector import Reflector, Source
from tests.cluster.access import eventually


def item(name, version):
    metadata = {"name": name, "namespace": "a", "uid": name, "resourceVersion": str(version)}
    return {"metadata": metadata}


class Server:
    """Answers lists and watches from a script; the last watch stays open until the test ends."""

    def __init__(self, lists, watches):
        self.lists, self.watches = lists, watches
        self.asked, self.end = [], threading.Event()

    def list(self, kind, namespace, **query):
        self.asked.append(("list", query.get("continue", "")))
        answer = self.lists.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def watch(self, kind, namespace, *, since, silence_seconds, **query):
        self.asked.append(("watch", since))
        if not self.watches:
            self.end.wait(10)
            return
        for event in self.watches.pop(0):
            if isinstance(event, ApiError):
                raise event
            yield event


def listed(*items, version="10", token=""):
    metadata = {"resourceVersion": version, **({"continue": token} if token else {})}
    return {"items": list(items), "metadata": metadata}


@pytest.fixture
def follow(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(module, "ABSENT_WAIT_SECONDS", 0.001)
    running = []

    def start(lists, watches, *, optional=False):
        server = Server(lists, watches)
        cache = Cache(lambda _: None, lambda _: None)
        reflector = Reflector(server, Source(CONFIG_MAP, "a", optional=optional), cache)
        reflector.start()
        running.append((reflector, server))
        return server, cache, reflector

    yield start
    for reflector, server in running:
        reflector.stop()
        server.end.set()


def names(cache):
    return {each["metadata"]["name"] for each in cache.all(CONFIG_MAP)}


def test_a_list_in_pages_and_then_what_changes(follow):
    pages = [listed(item("a", 1), token="next"), listed(item("b", 2))]
    changes = [
        WatchEvent("ADDED", item("c", 11)),
        WatchEvent("DELETED", item("a", 12)),
        WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "15"}}),
    ]
    server, cache, reflector = follow(pages, [changes])
    eventually(lambda: names(cache) == {"b", "c"} and reflector.has_settled)
    assert server.asked[:3] == [("list", ""), ("list", "next"), ("watch", "10")]
    eventually(lambda: server.asked[-1] == ("watch", "15"))  # opened anew from the bookmark


def test_a_version_that_the_server_forgot_means_a_new_list(follow):
    lists = [listed(item("a", 1), item("gone", 2)), listed(item("a", 1), version="20")]
    server, cache, _ = follow(lists, [[ApiError(410, "Expired", "too old")]])
    eventually(lambda: server.asked[-1] == ("watch", "20"))
    assert names(cache) == {"a"}


def test_a_broken_connection_goes_on_from_the_last_event(follow):
    broken = [WatchEvent("ADDED", item("b", 11)), ApiError(0, "Disconnected", "")]
    server, cache, _ = follow([listed(item("a", 1))], [broken])
    eventually(lambda: server.asked[-1] == ("watch", "11"))
    assert server.asked.count(("list", "")) == 1
    assert names(cache) == {"a", "b"}


def test_a_server_that_is_away_is_asked_again(follow):
    away = [ApiError(0, "Unreachable", ""), ApiError(503, "ServiceUnavailable", "")]
    _, cache, _ = follow([*away, listed(item("a", 1))], [])
    eventually(lambda: names(cache) == {"a"})


def test_a_kind_that_is_not_installed_is_picked_up_when_it_comes(follow):
    absent = ApiError(404, "NotFound", "")
    server, cache, reflector = follow([absent, absent, listed(item("a", 1))], [], optional=True)
    eventually(lambda: reflector.has_settled and names(cache) == {"a"})
    assert server.asked[:3] == [("list", "")] * 3
