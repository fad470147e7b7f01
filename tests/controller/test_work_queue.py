"""The queue of keys: once at a time, at its time, later after failures."""

import threading

import pytest

from controller.cluster.work_queue import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, WorkQueue


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    return WorkQueue(clock)


def drain(queue):
    """Every key that is ready now, given back at once."""
    found = []
    while len(queue):
        found.append(queue.take())
        queue.done(found[-1])
    return found


def test_a_key_that_is_added_twice_comes_once(queue):
    for key in ("a", "b", "a"):
        queue.add(key)
    assert drain(queue) == ["a", "b"]


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_and_not_before_it_is_done(queue):
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.take() == "b"
    queue.done("b")
    queue.done("a")
    assert drain(queue) == ["a"]


def test_a_timer_rings_at_its_time_and_the_earliest_counts(queue, clock):
    queue.add_at("a", 9.0)
    queue.add_at("a", 5.0)
    queue.add_at("a", 7.0)
    clock.now = 5.0
    assert queue.take() == "a"
    queue.done("a")
    clock.now = 100.0
    queue.add("b")
    assert drain(queue) == ["b"]


def test_failures_double_the_wait_up_to_a_limit_and_success_forgets_them(queue):
    waits = [queue.retry("a") for _ in range(20)]
    assert 0.75 * FIRST_WAIT_SECONDS <= waits[0] <= FIRST_WAIT_SECONDS
    assert 0.75 * 2 * FIRST_WAIT_SECONDS <= waits[1] <= 2 * FIRST_WAIT_SECONDS
    assert max(waits) <= LONGEST_WAIT_SECONDS
    assert waits[-1] >= 0.75 * LONGEST_WAIT_SECONDS
    queue.succeeded("a")
    assert queue.retry("a") <= FIRST_WAIT_SECONDS


def test_no_key_is_lost_or_worked_on_twice_at_a_time_by_many_workers():
    queue = WorkQueue()
    busy, seen, lock = set(), [], threading.Lock()

    def work():
        while (key := queue.take()) is not None:
            with lock:
                assert key not in busy
                busy.add(key)
            seen.append(key)
            with lock:
                busy.discard(key)
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for key in range(500):
        queue.add(key % 50)
    while len(queue):
        pass
    queue.close()
    for worker in workers:
        worker.join(10)
    assert set(seen) == set(range(50))
