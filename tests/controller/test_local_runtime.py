"""The local runtime: what it tells pods, how it restarts them, how it stops and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.local.folder import RunFolder
from pangu_core.errors import WorkspaceError

DONE = 'say(code=0, output="runs/novel/x", manifest_sha256="ab")\n'
FAIL_ONCE = """
note("go")
if times("go") == 1:
    say(code=3, error="DataError", message="no text")
    sys.exit(3)
"""
SAVE_ON_SIGTERM = """
def save(*_):
    note("saved")
    say(code=143, step=7)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
note("go")
if times("go") == 1:
    time.sleep(60)
"""
DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); note("go"); time.sleep(60)'


def stopping(*signals):
    """A watcher that sends the runtime these signals once a pod runs."""

    def watch(machine):
        machine.wait_for("go")
        for number in signals:
            machine.runtime.stop(number)

    return watch


def test_stages_run_one_after_another(machine):
    code = machine.run({"preprocess": 'note("a")', "train": f'note("b"); {DONE}'})
    assert code == 0
    assert [n for n in machine.notes if n in "ab"] == ["a", "b"]
    assert machine.status.phase == "Complete"
    assert machine.status.stage("train").output == "runs/novel/x"


def test_paths_ports_and_names_are_those_of_this_machine(machine):
    dump = 'note("env" + json.dumps(dict(os.environ), separators=",:").replace(" ", ""))\n'
    machine.run({"train": dump + DONE})
    seen = json.loads(machine.noted("env"))
    local, pod = machine.folder.local, "novel-train-1-worker-0"
    assert seen["PANGU_WORKSPACE"] == str(machine.workspace)
    assert seen["PANGU_CONFIG"] == f"{local}/configs/novel-train-1/config.yaml"
    assert seen["SCRATCH"] == f"{local}/pods/{pod}/volumes/tmp/scratch"
    assert (seen["PANGU_AGENT_NAME"], seen["PANGU_AGENT_ADDRESS"]) == (pod, "127.0.0.1")
    assert seen["PANGU_PROGRESS_PORT"] == "0"
    assert seen["HOME"] == os.environ["HOME"]


def test_a_trainer_gets_what_the_training_operator_sets(machine):
    dump = 'note(",".join(v for k, v in sorted(os.environ.items()) if "PET_" in k))\n'
    machine.run({"train": dump + 'while times("store") < 1: time.sleep(0.02)\n' + DONE}, pods=2)
    port = machine.noted("port")
    assert port != "29400"
    assert f"9,1:2,2,pangu,127.0.0.1:{port},u-1" in machine.notes


def test_a_code_of_128_and_above_starts_the_same_pod_again(machine):
    program = f'note("go"); times("go") < 2 and sys.exit(201); {DONE}'
    assert machine.run({"train": program}) == 0
    assert machine.status.stage("train").attempt == 1
    assert machine.status.restarts == {"PeersLost": 1}
    log = (machine.folder.logs / "novel-train-1-worker-0.log").read_text()
    assert log.count(" start: ") == 2


def test_a_killed_batch_pod_is_replaced_too(machine):
    program = 'note("go"); times("go") < 2 and os.kill(os.getpid(), 9)'
    assert machine.run({"merge": program}) == 0
    assert machine.status.restarts == {"Killed": 1}


def test_a_code_up_to_127_is_a_new_attempt_with_its_reason_in_the_history(machine):
    assert machine.run({"train": FAIL_ONCE + DONE}) == 0
    first, second = machine.status.history
    assert (first.number, first.cause, first.message) == (1, "DataError", "no text")
    assert (second.number, second.outcome) == (2, "Succeeded")


def test_the_exit_code_is_that_of_the_failure(machine):
    assert machine.run({"merge": "sys.exit(4)"}, limit=1) == 4
    assert [past.charged for past in machine.status.history] == [True, True]
    assert "failed" in machine.reporter.sentences


def test_a_wrong_configuration_is_not_retried(machine):
    assert machine.run({"merge": 'note("go"); sys.exit(2)', "export": 'note("no")'}) == 2
    assert machine.notes == ["go"]


def test_a_command_that_cannot_start_is_a_failure_with_a_reason(machine):
    assert machine.run({"merge": "/nowhere/tool"}, limit=0) == 127
    assert "No such file" in machine.status.history[-1].message


def test_a_store_that_dies_is_started_again(machine):
    def kill_the_store(machine):
        machine.wait_for("store")
        os.kill(int(machine.noted("pid")), signal.SIGKILL)

    program = f'while times("store") < 2: time.sleep(0.02)\n{DONE}'
    assert machine.run({"train": program}, when=kill_the_store) == 0
    assert machine.status.restarts == {}
    assert not machine.cluster.has_processes()


def test_ctrl_c_lets_pods_save_and_a_second_start_goes_on(machine):
    stages = {"preprocess": 'note("once")', "train": SAVE_ON_SIGTERM + DONE}
    assert machine.run(stages, when=stopping(signal.SIGINT)) == 130
    assert machine.status.phase == "Suspended"
    assert machine.notes.count("saved") == 1
    assert machine.run(stages) == 0
    assert machine.notes.count("once") == 1
    assert machine.status.stage("train").attempt == 2
    assert machine.status.charges == ()


def test_a_pod_that_does_not_listen_is_killed_after_its_grace_period(machine):
    assert machine.run({"merge": DEAF}, grace=1, when=stopping(signal.SIGTERM)) == 143


def test_a_second_ctrl_c_kills_at_once(machine):
    twice = stopping(signal.SIGINT, signal.SIGINT)
    assert machine.run({"merge": DEAF}, grace=3600, when=twice) == 130


def test_only_a_changed_stage_and_those_after_it_run_again(machine):
    first = {"preprocess": 'note("p")', "merge": 'note("m")', "export": 'note("e")'}
    machine.run(first)
    assert machine.run(first) == 0
    assert machine.run({**first, "merge": 'note("m2")'}) == 0
    assert machine.notes == ["p", "m", "e", "m2", "e"]
    assert machine.status.stage("merge").attempt == 2


def test_the_volumes_of_ended_pods_are_removed_and_their_logs_stay(machine):
    machine.run({"merge": "print('hello')"})
    assert not machine.folder.local.exists()
    assert "hello" in (machine.folder.logs / "novel-merge-1-0.log").read_text()


def test_two_runs_of_one_job_refuse_each_other(machine):
    other = RunFolder(machine.workspace, machine.job)
    with (
        machine.folder.locked(),
        pytest.raises(WorkspaceError, match=f"process {os.getpid()}"),
        other.locked(),
    ):
        pass


def test_a_folder_of_another_job_is_refused(machine):
    machine.run({"merge": "pass"})
    metadata = machine.job.metadata.model_copy(update={"uid": "another"})
    stranger = machine.job.model_copy(update={"metadata": metadata})
    with pytest.raises(WorkspaceError, match="belongs to another job"):
        RunFolder(machine.workspace, stranger).load()


RUNTIME = """
import sys, time
from pathlib import Path
from controller.local.kubelet import Kubelet
from controller.local.pods import PodLaunch

folder = Path(sys.argv[1])
helper = "import time; time.sleep(60)"
leader = f"import subprocess, sys; subprocess.call([sys.executable, '-S', '-c', {helper!r}])"
pod = {"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}
launch = PodLaunch((sys.executable, "-S", "-c", leader), {}, folder / "p", folder / "t", ())
Kubelet(logs=folder).start(pod, launch)
print("started", flush=True)
time.sleep(60)
"""


def test_pods_die_with_a_runtime_that_is_killed(tmp_path):
    runtime = subprocess.Popen(
        [sys.executable, "-c", RUNTIME, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert runtime.stdout.readline() == "started\n"
    (pod,) = [pid for pid, group in groups().items() if parent(pid) == runtime.pid and pid == group
              and "subprocess.call" in words(pid)]  # fmt: skip
    while list(groups().values()).count(pod) < 2:
        time.sleep(0.02)
    runtime.kill()
    runtime.communicate()
    for _ in range(200):
        if pod not in groups().values():
            break
        time.sleep(0.02)
    assert pod not in groups().values()


def groups():
    """Process id -> process group, zombies left out."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (fields := stat(folder.name)) and fields[0] != "Z":
            found[int(folder.name)] = int(fields[2])
    return found


def parent(pid):
    fields = stat(pid)
    return int(fields[1]) if fields else None


def words(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
