"""The cache: the later version stays, what is gone stays gone, whoever belongs is told."""

import pytest

from controller.cluster.cache import Cache
from controller.cluster.kinds import JOB, POD


def pod(uid, version, job="novel"):
    return {
        "kind": "Pod",
        "metadata": {"uid": uid, "resourceVersion": str(version), "labels": {"job": job}},
    }


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(told):
    def key_of(item):
        job = item["metadata"]["labels"].get("job")
        return (JOB.name, "default", job) if job else None

    return Cache(key_of, told.append)


KEY = (JOB.name, "default", "novel")


def versions(cache):
    return {o["metadata"]["uid"]: o["metadata"]["resourceVersion"] for o in cache.under(KEY)}


def test_an_older_word_never_replaces_a_later_one(cache, told):
    cache.put(POD, pod("a", 10))
    cache.put(POD, pod("a", 9))
    assert versions(cache) == {"a": "10"}
    assert told == [KEY]


def test_versions_are_numbers_and_not_words(cache):
    cache.put(POD, pod("a", 9))
    cache.put(POD, pod("a", 10))
    assert versions(cache) == {"a": "10"}


def test_what_was_removed_does_not_come_back_by_a_late_word(cache):
    cache.put(POD, pod("a", 5))
    cache.remove(POD, pod("a", 6))
    cache.put(POD, pod("a", 4))
    assert versions(cache) == {}


def test_a_new_list_is_the_truth(cache, told):
    cache.put(POD, pod("a", 5))
    cache.put(POD, pod("b", 6))
    told.clear()
    cache.replace(POD, [pod("b", 6), pod("c", 7)])
    assert versions(cache) == {"b": "6", "c": "7"}
    assert told == [KEY, KEY]


def test_an_object_that_changes_hands_leaves_its_old_owner(cache):
    cache.put(POD, pod("a", 5))
    cache.put(POD, pod("a", 6, job="other"))
    assert versions(cache) == {}
    assert [o["metadata"]["uid"] for o in cache.under((JOB.name, "default", "other"))] == ["a"]
