from controller.cluster import surroundings
from controller.cluster.api import ApiError
from controller.cluster.surroundings import Troubles
from k8s import names
from k8s.status import Attempt


class Events:
    """A server that has warnings, and counts how often it is asked."""

    namespace = "a"

    def __init__(self, *events):
        self.events, self.asked = list(events), 0

    def list(self, kind, namespace, fieldSelector):
        self.asked += 1
        if not self.events:
            raise ApiError(0, "Unreachable", "away")
        return {"items": list(self.events)}


def warning(uid, message, when):
    return {
        "involvedObject": {"uid": uid},
        "reason": "FailedCreate",
        "message": message,
        "lastTimestamp": when,
    }


def objects(uid, *more):
    marks = {names.STAGE_LABEL: "train", names.ATTEMPT_LABEL: "1"}
    metadata = {"uid": uid, "namespace": "a", "labels": marks}
    return [{"kind": kind, "metadata": metadata} for kind in ("PyTorchJob", *more)]


ATTEMPT = Attempt("train", 1, created_at=0)


def test_the_latest_warning_about_an_attempt_says_why_it_has_no_pods():
    troubles = Troubles(Events(warning("u", "new", "2"), warning("u", "old", "1")))
    assert troubles.of(ATTEMPT, objects("u"))["train", 1].message == "new"
    assert troubles.of(ATTEMPT, objects("other")) == {}


def test_one_question_serves_all_jobs_of_a_namespace():
    events = Events(warning("u", "quota", "1"))
    troubles = Troubles(events)
    for uid in ("u", "v", "w", "u"):
        troubles.of(ATTEMPT, objects(uid))
    assert events.asked == 1


def test_nobody_is_asked_while_pods_are_there_or_may_still_come(monkeypatch):
    events = Events(warning("u", "quota", "1"))
    assert Troubles(events).of(ATTEMPT, objects("u", "Pod")) == {}
    monkeypatch.setattr(surroundings.time, "time", lambda: 2.0)
    assert Troubles(events).of(ATTEMPT, objects("u")) == {}
    assert events.asked == 0


def test_a_server_that_is_away_leaves_what_was_known(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(surroundings.time, "monotonic", lambda: clock[0])
    events = Events(warning("u", "quota", "1"))
    troubles = Troubles(events)
    troubles.of(ATTEMPT, objects("u"))
    events.events.clear()
    clock[0] = 60.0
    assert troubles.of(ATTEMPT, objects("u"))["train", 1].message == "quota"
    assert events.asked == 2
