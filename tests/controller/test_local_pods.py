"""From a pod's manifest to a process: mounts, variables, devices."""

from pathlib import Path

import pytest

from controller.local.pods import Places, Wiring, plan_pod
from controller.observe import REPLICA_INDEX
from pangu_core.errors import ConfigError

PLACES = Places(Path("/w"), configs=Path("/r/configs"), pods=Path("/r/pods"))
WIRING = Wiring({"store:29400": "127.0.0.1:5"}, {"PORT": "6"}, num_processes=2, num_processors=5)


def launched(*, environment=None, wiring=WIRING, index="0", **container):
    volumes = [
        {"name": "work", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "inner", "emptyDir": {}},
        {"name": "secret", "secret": {"secretName": "s"}},
    ]
    container = {"volumeMounts": [{"name": "work", "mountPath": "/workspace"}], **container}
    pod = {
        "metadata": {"name": "p", "uid": "u", "labels": {REPLICA_INDEX: index}},
        "spec": {"containers": [container], "volumes": volumes},
    }
    return plan_pod(pod, places=PLACES, wiring=wiring, environment=environment or {})


@pytest.mark.parametrize(
    ("value", "local"),
    [
        ("/workspace", "/w"),
        ("/workspace/a b", "/w/a b"),
        ("/workspaces", "/workspaces"),
        ("see /workspace", "see /workspace"),
        ("/workspace/inner/x", "/r/pods/p/volumes/inner/x"),
        ("/dev/termination-log", "/r/pods/p/termination.json"),
        ("store:29400", "127.0.0.1:5"),
    ],
)
def test_a_value_below_a_mount_becomes_a_local_path(value, local):
    mounts = [
        {"name": "work", "mountPath": "/workspace"},
        {"name": "inner", "mountPath": "/workspace/inner"},
    ]
    launch = launched(env=[{"name": "X", "value": value}], volumeMounts=mounts)
    assert launch.environment["X"] == local


def test_the_manifest_wins_over_the_shell_and_ports_are_local():
    shell = {"A": "shell", "B": "shell", "HOME": "/me", "PET_NNODES": "9"}
    env = [{"name": n, "value": "pod"} for n in ("A", "PORT", "HOME")]
    got = launched(environment=shell, env=env).environment
    assert (got["A"], got["B"], got["PORT"], got["HOME"]) == ("pod", "shell", "6", "/me")
    assert "PET_NNODES" not in got


@pytest.mark.parametrize(("shell", "threads"), [({}, "2"), ({"OMP_NUM_THREADS": "7"}, "7")])
def test_processors_are_shared_unless_the_user_said_how(shell, threads):
    assert launched(environment=shell).environment["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(("index", "devices"), [("0", "4,5"), ("1", "6,7"), ("2", None)])
def test_each_pod_sees_the_devices_it_asked_for(index, devices):
    wiring = Wiring({}, {}, num_processes=1, num_processors=1, devices=("4", "5", "6", "7"))
    limits = {"limits": {"nvidia.com/gpu": "2"}}
    launch = launched(wiring=wiring, index=index, resources=limits)
    assert launch.environment.get("CUDA_VISIBLE_DEVICES") == devices


@pytest.mark.parametrize(
    "container",
    [
        {"envFrom": [{"configMapRef": {"name": "s"}}]},
        {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"volumeMounts": [{"name": "secret", "mountPath": "/s"}]},
    ],
)
def test_what_only_a_cluster_has_is_refused_by_name(container):
    with pytest.raises(ConfigError, match="exists on a cluster only"):
        launched(**container)


def test_the_variables_of_a_secret_come_from_the_shell():
    shell = {"AWS_ACCESS_KEY_ID": "mine"}
    launch = launched(envFrom=[{"secretRef": {"name": "s3"}}], environment=shell)
    assert launch.environment["AWS_ACCESS_KEY_ID"] == "mine"


def test_this_machines_python_stays_where_it_is_even_below_a_mount(monkeypatch):
    monkeypatch.setattr("sys.executable", "/workspace/.venv/bin/python")
    assert launched(command=["python", "-m", "x"]).command[0] == "/workspace/.venv/bin/python"
