"""The launcher's pure parts: exit codes, stalls, settings, the cgroup's OOM counter."""

import inspect
import json
import os
import signal
import subprocess
import sys

import pytest

from pangu_core.config.stages import TrainConfig
from pangu_core.errors import ConfigError
from pangu_core.launch.heartbeat import Pulse, StallLimits, hear
from pangu_core.launch.ranks import place_of, shared_environment
from pangu_core.launch.settings import from_environment
from pangu_core.launch.verdict import judge
from pangu_core.memory import oom_kills
from pangu_core.messages import Termination
from pangu_core.rendezvous.ports import free_port
from pangu_core.rendezvous.protocol import Round, Rules

NAN = Termination(code=5, error="TrainingError")


@pytest.mark.parametrize(
    ("codes", "kind", "code"),
    [
        ([None, None], "wait", None),
        ([0, None], "wait", None),
        ([202, None], "wait", None),
        ([202, 202], "rejoin", None),
        ([143, 202], "rejoin", None),
        ([202, 0], "rejoin", None),
        ([201, None], "lost", None),
        ([202, 201], "lost", None),
        ([None, -9], "crash", -9),
        ([201, -11], "crash", -11),
        ([None, 139], "crash", 139),
        ([201, 5], "failed", 5),
        ([-9, 5], "failed", 5),
        ([1, -9], "crash", -9),
        ([0, 0], "failed", 1),
    ],
)
def test_exit_codes_mean(codes, kind, code):
    verdict = judge(codes, {}, done=False, oom=False)
    assert (verdict.kind, verdict.code) == (kind, code)


def test_a_rank_killed_while_it_died_of_its_own_error_still_fails_the_attempt():
    verdict = judge([-9, -9], {1: NAN}, done=False, oom=False)
    assert (verdict.kind, verdict.local_rank, verdict.code) == ("failed", 1, 5)


def test_the_first_rank_to_leave_an_error_is_the_one_that_is_named():
    assert judge([1, 5], {1: NAN}, done=False, oom=False).local_rank == 1


def test_a_kill_for_memory_is_told_apart():
    assert judge([-9, None], {}, done=False, oom=True).kind == "oom"


@pytest.mark.parametrize(("codes", "kind"), [([0, None], "wait"), ([0, 1], "complete")])
def test_nothing_spoils_a_committed_result(codes, kind):
    assert judge(codes, {}, done=True, oom=False).kind == kind


def pulses(lines):
    pulse = Pulse(started_at=0.0)
    for time, values in lines:
        pulse = hear(pulse, json.dumps(values).encode(), time)
    return pulse


def test_the_limit_follows_the_median_step():
    steps = [(float(t), {"phase": "step", "step": t}) for t in range(1, 12)]
    pulse = pulses([(0.5, {"phase": "start"}), *steps])
    assert StallLimits(floor=2.0, factor=4.0, other=99.0).limit(pulse) == 4.0
    assert StallLimits(floor=9.0, factor=4.0, other=99.0).limit(pulse) == 9.0
    assert pulse.silence_seconds(13.0) == 2.0
    assert pulse.stepped_at == 11.0


def test_heartbeats_that_piled_up_tell_no_duration():
    steps = [(float(t), {"phase": "step", "step": t}) for t in range(1, 5)]
    pile = [(20.0, {"phase": "step", "step": t}) for t in range(5, 20)]
    assert pulses([*steps, *pile]).step_seconds == (1.0, 1.0, 1.0, 16.0)


def test_a_rank_told_to_leave_may_take_a_step_and_a_save():
    steps = [(float(t), {"phase": "step", "step": t}) for t in range(1, 12)]
    assert StallLimits(floor=2.0, factor=4.0, other=99.0).leave(pulses(steps)) == 4.0 + 99.0


@pytest.mark.parametrize(
    ("phase", "is_training"),
    [("start", False), ("compile", False), ("step", True), ("evaluate", True), ("save", True)],
)
def test_before_its_first_step_a_rank_has_nothing_to_save(phase, is_training):
    assert pulses([(1.0, {"phase": phase})]).is_training is is_training


def test_what_a_rank_says_stays_known_until_it_says_otherwise():
    pulse = pulses([(1.0, {"phase": "step", "step": 3, "skipped": 2}), (2.0, {"phase": "save"})])
    assert (pulse.phase, pulse.step, pulse.skipped) == ("save", 3, 2)


@pytest.mark.parametrize("phase", ["start", "compile", "evaluate", "save", "done"])
def test_declared_phases_have_a_long_limit(phase):
    steps = [(float(t), {"phase": "step", "step": t}) for t in range(1, 12)]
    pulse = pulses([*steps, (12.0, {"phase": phase})])
    assert StallLimits(other=99.0).limit(pulse) == 99.0


def test_the_first_steps_have_a_long_limit_since_they_compile():
    assert StallLimits(other=99.0).limit(pulses([(1.0, {"phase": "step", "step": 1})])) == 99.0


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b'{"step": 3}', b'{"phase": 3}'])
def test_garbage_is_no_sign_of_life(line):
    assert hear(Pulse(started_at=0.0), line, 1.0) == Pulse(started_at=0.0)


def config(processes=2, tensor_parallel=4, low=2, high=4):
    nodes = {"min": low, "max": high, "processesPerNode": processes}
    train = {"steps": 1, "globalBatchSize": 1, "tensorParallel": tensor_parallel, "nodes": nodes}
    run = {"name": "x", "uid": "u", "attempt": 3}
    return TrainConfig.model_validate({"run": run, "tokenFiles": "t", "train": train})


def test_settings_come_from_the_operators_variables():
    found = from_environment(
        config(),
        {
            "PET_NNODES": "2:4",
            "PET_NPROC_PER_NODE": "2",
            "PET_RDZV_ENDPOINT": "x-store:29400",
            "PET_RDZV_ID": "u-3",
            "PANGU_AGENT_NAME": "x-worker-1",
            "PANGU_AGENT_ADDRESS": "10.1.2.3",
            "PANGU_PROGRESS_PORT": "8080",
            "PANGU_GRACE_SECONDS": "90",
        },
    )
    assert found.rules == Rules(unit=2, low=2, high=4)
    assert (found.store_host, found.store_port, found.gang) == ("x-store", 29400, "u-3")
    assert found.id.startswith("x-worker-1#")
    assert (found.address, found.progress_port) == ("10.1.2.3", 8080)
    assert found.limits.grace == 90.0


@pytest.mark.parametrize(("floor", "phase"), [(5.0, 300.0), (60.0, 1200.0)])
def test_the_limit_of_declared_phases_follows_the_configured_floor(floor, phase):
    found = config()
    hang = found.train.hang.model_copy(update={"floor_seconds": floor})
    train = found.train.model_copy(update={"hang": hang})
    limits = from_environment(found.model_copy(update={"train": train}), {}).limits
    assert (limits.stall.floor, limits.stall.other) == (floor, phase)


def test_without_an_endpoint_a_node_is_by_itself():
    found = from_environment(config(), {})
    assert (found.store_host, found.gang, found.progress_port) == ("", "u-3", None)
    assert (found.rules, found.processes) == (Rules(2, 2, 4), 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PET_NNODES", "1:3"),
        ("PET_NNODES", "4:2"),
        ("PET_NNODES", "many"),
        ("PET_RDZV_ENDPOINT", "store:port"),
        ("PET_NPROC_PER_NODE", "8"),
        ("PET_NPROC_PER_NODE", "auto"),
        ("PANGU_PROGRESS_PORT", "-1"),
        ("PANGU_GRACE_SECONDS", "soon"),
    ],
)
def test_a_bad_variable_is_named(name, value):
    with pytest.raises(ConfigError) as caught:
        from_environment(config(), {name: value})
    assert caught.value.subject == name


def test_a_rank_learns_its_place_and_never_the_termination_path():
    gang = Round(7, ("a#1", "b#2"), "10.0.0.1", 2000)
    base = {"PANGU_TERMINATION_PATH": "/t", "PANGU_CONFIG": "/c", "OMP_NUM_THREADS": "5"}
    found = shared_environment(base, 3) | place_of(gang, node=1, processes=3, local_rank=2)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == ("5", "6", "3")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "2000")
    assert (found["PANGU_ROUND"], found["PANGU_CONFIG"]) == ("7", "/c")
    assert found["OMP_NUM_THREADS"] == "5"
    assert "PANGU_TERMINATION_PATH" not in found


@pytest.mark.parametrize(
    ("line", "path"),
    [("0::/pod/x", "pod/x/memory.events"), ("4:memory:/pod/x", "memory/pod/x/memory.oom_control")],
)
def test_kills_for_memory_are_counted_in_both_cgroup_versions(tmp_path, line, path):
    membership = tmp_path / "membership"
    membership.write_text(f"8:pids:/\n{line}\n")
    assert oom_kills(tmp_path, membership) == 0
    counter = tmp_path / path
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom_kill 3\n")
    assert oom_kills(tmp_path, membership) == 3


@pytest.mark.parametrize("module", ["pangu_core.entry.train_pod", "pangu_core.entry.store_pod"])
def test_launcher_and_store_never_load_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class SignalAtImport:
    """Sends this process SIGTERM when it starts to load its slow part."""

    def find_spec(self, name, *_):
        if name.endswith("_pod"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("module", "code"), [("train", 2), ("store", 0)])
def test_a_signal_before_all_is_loaded_is_noted(module, code, monkeypatch):
    """The launcher goes on to miss its config; the store ends."""
    script = f"""
import inspect, os, signal, sys
import pangu_core.entry.{module} as entry
assert "pydantic" not in sys.modules
{inspect.getsource(SignalAtImport)}
sys.meta_path.insert(0, SignalAtImport())
sys.argv[1:] = []
entry.main()
"""
    monkeypatch.delenv("PANGU_CONFIG", raising=False)
    monkeypatch.setenv("PANGU_STORE_PORT", str(free_port()))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code
