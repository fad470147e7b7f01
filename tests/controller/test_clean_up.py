import pytest

from controller import clean_up as module
from controller.clean_up import clean_up
from controller.cluster.api import ApiError
from pangu_core.errors import PanguError

ITEM = {
    "apiVersion": "pangu-finetune.io/v1alpha1",
    "kind": "PanguJob",
    "metadata": {"name": "novel", "namespace": "research", "uid": "0123456789"},
    "spec": {
        "image": "pangu-core:1",
        "workspace": {"claimName": "work"},
        "model": {"preset": "tiny"},
        "data": {"input": "a.txt"},
        "train": {"steps": 1, "globalBatchSize": 1},
    },
}


class Api:
    """A server whose job goes away after some looks."""

    namespace = "research"

    def __init__(self, looks, *, conflict=False):
        self.looks, self.conflict, self.made = looks, conflict, []

    def get(self, kind, namespace, name):
        if not self.looks:
            raise ApiError(404, "NotFound", "gone")
        return {"metadata": {"uid": self.looks.pop(0)}}

    def create(self, kind, manifest, namespace):
        self.made.append(manifest)
        if self.conflict:
            raise ApiError(409, "AlreadyExists", "there")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.0)


def test_the_run_is_deleted_when_the_job_is_gone():
    api = Api(["0123456789", "0123456789"])
    assert clean_up(api, ITEM) == "novel-clean-up-01234567"
    [job] = api.made
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["rm", "-rf", "--", "/workspace/runs/novel"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "work"}
    assert job["metadata"]["namespace"] == "research"


def test_a_new_job_of_the_name_is_not_waited_for_and_twice_is_once():
    api = Api(["another"], conflict=True)
    assert clean_up(api, ITEM) == "novel-clean-up-01234567"


def test_data_stays_while_pods_may_still_write(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", -1_000.0)
    api = Api(["0123456789"] * 3)
    with pytest.raises(PanguError, match="must be gone before its data goes"):
        clean_up(api, ITEM)
    assert api.made == []
