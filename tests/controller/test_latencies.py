"""Waits for pods, as the metrics count them."""

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from controller.cluster.metrics import Metrics
from controller.latencies import Latency, latency
from controller.status import with_condition, with_history
from k8s.status import JobStatus, PastAttempt

FAILED = PastAttempt("train", 1, "Failed", "DataError", charged=True, created_at=0, ended_at=60)


def status(running, *past):
    truth = "True" if running else "False"
    found = with_condition(JobStatus(), "Running", truth, reason="r", message="", now=0)
    for each in past:
        found = with_history(found, each)
    return found


def wait(before, after):
    return latency(before, after, created_at=10, now=100)


def test_the_first_pod_ends_the_start():
    assert wait(JobStatus(), status(True)) == Latency("start", 90)
    assert wait(status(False), status(True)) == Latency("start", 90)


def test_a_pod_after_a_failure_ends_the_recovery():
    assert wait(status(False, FAILED), status(True, FAILED)) == Latency("recovery", 40)


@pytest.mark.parametrize(
    "past",
    [replace(FAILED, outcome="Succeeded"), replace(FAILED, outcome="Stopped", cause="Suspended")],
    ids=["the next stage", "a user's wish"],
)
def test_other_beginnings_are_no_recovery(past):
    assert wait(status(False, past), status(True, past)) is None


def test_what_goes_on_running_or_stops_is_no_wait():
    assert wait(status(True), status(True)) is None
    assert wait(status(True), status(False)) is None


def test_waits_are_in_the_metrics():
    metrics = Metrics()
    metrics.measure(Latency("recovery", 40))
    text = generate_latest(metrics.registry).decode()
    assert 'pangu_job_recovery_seconds_bucket{le="60.0"} 1.0' in text
    assert "pangu_job_start_seconds_count 0.0" in text
