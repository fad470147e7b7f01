"""A machine for the local runtime: hand-written manifests whose pods are short Python programs."""

import os
import threading
import time

import pytest

from controller.local.cluster import LocalCluster
from controller.local.folder import RunFolder
from controller.local.kubelet import Kubelet
from controller.local.pods import Places
from controller.local.runtime import LocalRuntime
from controller.observe import JobView, StagePlan
from controller.status import reopened
from k8s.spec import parse_job
from k8s.status import JobStatus

JOB = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguJob
metadata: {name: novel}
spec:
  image: none
  workspace: {size: 1Gi}
  model: {preset: tiny}
  data: {input: corpus.txt}
  train: {steps: 1, globalBatchSize: 1}
"""
# What the one-line programs have at hand: files in the workspace, and a last word.
PRELUDE = """
import json, os, pathlib, signal, sys, time
work = pathlib.Path(os.environ["PANGU_WORKSPACE"])
def say(**word): pathlib.Path(os.environ["PANGU_TERMINATION_PATH"]).write_text(json.dumps(word))
def note(text):
    with (work / "notes").open("a") as file: print(text, file=file)
def times(text):
    path = work / "notes"
    return path.read_text().split().count(text) if path.exists() else 0
"""


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.sentences = []

    def tell(self, sentences):
        self.sentences += sentences

    def show(self, snapshot):
        pass


class Machine:
    """Starts a job of fake stages in a folder."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.job = parse_job(JOB)
        self.folder = RunFolder(workspace, self.job)
        self.reporter = Quiet()
        self.status = JobStatus()
        self.runtime = None

    def run(self, stages, *, limit=5, grace=5, pods=1, when=None):
        """Run stages (name -> program); ``when(machine)`` is called from another thread."""
        plans = tuple(StagePlan(s, program, s == "train") for s, program in stages.items())
        view = JobView("novel", "u", plans, restart_limit=limit, backoff_seconds=0.1)
        status = reopened(self.folder.load()[1], dict(stages), kept=stages)
        self.folder.root.mkdir(parents=True, exist_ok=True)
        kubelet = Kubelet(logs=self.folder.logs)
        local = self.folder.local
        places = Places(self.workspace, configs=local / "configs", pods=local / "pods")
        self.cluster = LocalCluster(kubelet, places=places, environment=os.environ)
        self.runtime = LocalRuntime(
            view,
            lambda stage, attempt: manifests(stage, attempt, stages[stage], grace=grace, pods=pods),
            folder=self.folder,
            cluster=self.cluster,
            reporter=self.reporter,
            status=status,
        )
        watcher = threading.Thread(target=when or bool, args=(self,))
        watcher.start()
        try:
            return self.runtime.run()
        finally:
            watcher.join()
            kubelet.close()
            self.status = self.runtime.status

    def noted(self, head):
        """What follows ``head`` in the first note that begins with it."""
        return next(n for n in self.notes if n.startswith(head)).removeprefix(head)

    @property
    def notes(self):
        path = self.workspace / "notes"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, note, count=1):
        for _ in range(400):
            if self.notes.count(note) >= count:
                return
            time.sleep(0.025)
        raise AssertionError(f"no {note} in {self.notes}")


def manifests(stage, attempt, program, *, grace, pods):
    name, is_training = f"novel-{stage}-{attempt}", stage == "train"
    labels = {
        "pangu-finetune.io/stage": stage,
        "pangu-finetune.io/attempt": str(attempt),
        "app.kubernetes.io/component": stage,
    }
    container = {
        "name": "pytorch" if is_training else "pangu",
        "command": command(program),
        "env": [
            {"name": "PANGU_WORKSPACE", "value": "/workspace"},
            {"name": "PANGU_CONFIG", "value": "/etc/pangu/config.yaml"},
            {"name": "PANGU_TERMINATION_PATH", "value": "/dev/termination-log"},
            {"name": "PANGU_PROGRESS_PORT", "value": "8080"},
            {"name": "PANGU_AGENT_NAME", "valueFrom": field("metadata.name")},
            {"name": "PANGU_AGENT_ADDRESS", "valueFrom": field("status.podIP")},
            {"name": "SCRATCH", "value": "/tmp/scratch"},
            {"name": "HOME", "value": "/home/pangu"},
        ],
        "volumeMounts": [
            {"name": "work", "mountPath": "/workspace"},
            {"name": "config", "mountPath": "/etc/pangu"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
        "containers": [container],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "config", "configMap": {"name": name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    template = {"metadata": {"labels": labels}, "spec": spec}
    config = made("ConfigMap", name, labels, data={"config.yaml": "a: 1\n"})
    if not is_training:
        return [config, made("Job", name, labels, spec={"template": template})]
    return [config, *store(name, labels), pytorch_job(name, labels, template, pods)]


def command(program):
    """A path is a command of its own, anything else a program for Python."""
    return [program] if program.startswith("/") else ["python", "-S", "-c", PRELUDE + program]


def store(name, labels):
    marks = labels | {"app.kubernetes.io/component": "store"}
    program = PRELUDE.replace('os.environ["PANGU_WORKSPACE"]', "sys.argv[1]")
    program += 'note("store"); note(f"pid{os.getpid()}"); note("port" + os.environ["PANGU_STORE_PORT"]); time.sleep(60)'
    container = {
        "name": "store",
        "command": ["python", "-S", "-c", program, "/workspace"],
        "env": [{"name": "PANGU_STORE_PORT", "value": "29400"}],
        "volumeMounts": [{"name": "work", "mountPath": "/workspace"}],
    }
    volumes = [{"name": "work", "persistentVolumeClaim": {"claimName": "c"}}]
    spec = {"containers": [container], "volumes": volumes}
    template = {"metadata": {"labels": marks}, "spec": spec}
    ports = [{"port": 29400, "targetPort": 29400}]
    return [
        made("Service", f"{name}-store", marks, spec={"selector": marks, "ports": ports}),
        made("Deployment", f"{name}-store", marks, spec={"replicas": 1, "template": template}),
    ]


def pytorch_job(name, labels, template, pods):
    policy = {
        "minReplicas": 1, "maxReplicas": pods, "rdzvBackend": "pangu",
        "rdzvHost": f"{name}-store", "rdzvPort": 29400, "rdzvId": "u-1", "maxRestarts": 9,
    }  # fmt: skip
    worker = {"replicas": pods, "restartPolicy": "ExitCode", "template": template}
    spec = {"elasticPolicy": policy, "nprocPerNode": "2", "pytorchReplicaSpecs": {"Worker": worker}}
    return made("PyTorchJob", name, labels, spec=spec)


def made(kind, name, labels, **rest):
    return {"kind": kind, "metadata": {"name": name, "labels": labels}, **rest}


def field(path):
    return {"fieldRef": {"fieldPath": path}}


@pytest.fixture
def machine(tmp_path):
    """A folder in which fake jobs run."""
    return Machine(tmp_path)


@pytest.fixture
def fake_render():
    """Renders a stage whose pod runs a program, by stage name."""

    def render(programs):
        return lambda _, stage, attempt: manifests(stage, attempt, programs[stage], grace=5, pods=1)

    return render
