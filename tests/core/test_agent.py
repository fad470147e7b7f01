"""Launchers with fake ranks and a real store on loopback: every fault and every way to end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from pangu_core.messages import Progress, Termination
from pangu_core.rendezvous import store
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.ports import free_port

# An agent that a busy machine starves for a while is not dead.
QUICK = Timing(quiet=0.4, dead=10.0, hangup=0.5, recovery=1.5, growth=0.5)
STUB = Path(__file__).with_name("agent_under_test.py")


class Cluster:
    """Agents by name, their ranks' folder, and a store that can be lost."""

    def __init__(self, folder, *, low=1, high=2, unit=1, processes=1, timing=QUICK, **limits):
        self.folder, self.agents, self.timing = folder, {}, timing
        rules = {"unit": unit, "low": low, "high": high}
        # Long by default: a busy machine must not look like a stall.
        limits = {"store_away": 60.0, "stall_floor": 60.0, **limits}
        self.values = {"rules": rules, "processes": processes, **limits}
        self.port, self.store = free_port(), contextlib.ExitStack()

    def start_store(self):
        self.store.enter_context(store.in_thread(self.timing, port=self.port))

    def stop_store(self):
        self.store.close()

    def start(self, *names):
        for name in names:
            (self.folder / name).mkdir(exist_ok=True)
            (self.termination_file(name)).unlink(missing_ok=True)
            environment = {**os.environ, "FAKE_FOLDER": str(self.folder)}
            environment["PANGU_TERMINATION_PATH"] = str(self.termination_file(name))
            values = json.dumps({**self.values, "name": name, "port": self.port})
            self.agents[name] = subprocess.Popen(
                [sys.executable, str(STUB), values], env=environment
            )

    def termination_file(self, name):
        return self.folder / name / "termination"

    def end(self, name):
        """Wait for an agent; returns its exit code and last words."""
        code = self.agents[name].wait(60)
        return code, Termination.from_json(self.termination_file(name).read_text())

    def page(self, name, path):
        port = (self.folder / name / "progress.port").read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.read().decode()

    def tell(self, file_name):
        (self.folder / file_name).touch()

    def round(self, *, world, after=0):
        """Wait for a round of so many ranks later than ``after``; returns number and records."""
        for _ in until(f"a round of {world} after {after}"):
            for number in range(after + 1, after + 20):
                files = sorted(self.folder.glob(f"start-{number}-*.json"))
                found = [json.loads(f.read_text()) for f in files]
                if len(found) == world and all(r["world"] == world for r in found):
                    return number, found
        raise AssertionError("until() fails before it ends")

    def close(self):
        for agent in self.agents.values():
            agent.kill()
            agent.wait()
        self.stop_store()


def until(what, seconds=60):
    """Iterate until the caller returns; fail if that takes too long."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        yield
        time.sleep(0.03)
    pytest.fail(f"waited {seconds} s for {what}")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_death(*pids):
    for _ in until(f"the end of {pids}"):
        if not any(is_alive(pid) for pid in pids):
            return


@pytest.fixture
def launchers(tmp_path):
    made = []

    def make(**settings):
        made.append(Cluster(tmp_path, **settings))
        made[0].start_store()
        return made[0]

    yield make
    made[0].close()


def test_two_agents_form_a_world_and_all_end_with_the_result(launchers):
    gang = launchers(low=2, high=2, processes=2)
    gang.start("a", "b")
    number, ranks = gang.round(world=4)
    assert number == 1
    assert [r["local"] for r in ranks] == ["0", "1", "0", "1"]
    assert len({r["port"] for r in ranks}) == 1
    gang.tell("finish")
    for name in ("a", "b"):
        code, words = gang.end(name)
        assert code == 0
        assert words.output == "runs/x/checkpoints/step-00000100"
        assert words.manifest_sha256 == "ab" * 32


def test_a_killed_rank_is_back_in_the_next_round(launchers):
    gang = launchers(low=2, high=2)
    gang.start("a", "b")
    _, ranks = gang.round(world=2)
    os.kill(ranks[1]["pid"], signal.SIGKILL)
    number, again = gang.round(world=2, after=1)
    assert number == 2
    assert not is_alive(ranks[0]["pid"])
    assert [r["agent"] for r in again] == [r["agent"] for r in ranks]
    gang.tell("finish")
    assert [gang.end(n)[0] for n in ("a", "b")] == [0, 0]


def test_a_killed_agent_takes_its_ranks_along_and_the_others_shrink(launchers):
    gang = launchers(low=1, high=3)
    gang.start("a", "b", "c")
    _, ranks = gang.round(world=3)
    victim = gang.agents["b"].pid
    gang.agents["b"].kill()
    wait_for_death(*(r["pid"] for r in ranks if r["agent"] == victim))
    gang.round(world=2, after=1)


def test_with_a_unit_of_two_the_third_agent_waits_and_ends_with_the_others(launchers):
    gang = launchers(low=2, high=4, unit=2)
    gang.start("a", "b", "c")
    gang.round(world=2)
    time.sleep(0.5)
    assert not list(gang.folder.glob("start-*-2.json"))
    gang.tell("finish")
    results = [gang.end(n) for n in ("a", "b", "c")]
    assert [code for code, _ in results] == [0, 0, 0]
    assert {words.manifest_sha256 for _, words in results} == {"ab" * 32}


def test_a_late_agent_joins_at_a_step_boundary(launchers):
    gang = launchers(low=1, high=2)
    gang.start("a")
    gang.round(world=1)
    gang.start("b")
    gang.round(world=2, after=1)
    assert int((gang.folder / "step").read_text()) > 0  # the first world saved before it left


def test_a_lost_store_stops_nobody_and_a_new_one_knows_the_round(launchers):
    gang = launchers(low=2, high=2)
    gang.start("a", "b")
    _, ranks = gang.round(world=2)
    gang.stop_store()
    time.sleep(1.0)
    gang.start_store()
    time.sleep(1.5)
    assert all(is_alive(r["pid"]) for r in ranks)
    os.kill(ranks[0]["pid"], signal.SIGKILL)
    assert gang.round(world=2, after=1)[0] == 2


def test_sigterm_saves_and_the_others_go_on(launchers):
    gang = launchers(low=1, high=2)
    gang.start("a", "b")
    gang.round(world=2)
    gang.agents["a"].terminate()
    code, words = gang.end("a")
    assert (code, words.error) == (143, "Stopped")
    assert words.message == "asked to stop; saved at a step boundary"
    assert words.step > 0
    gang.round(world=1, after=1)
    gang.agents["b"].terminate()
    assert gang.end("b")[0] == 143


def test_a_rank_that_compiles_has_nothing_to_save_and_is_killed_at_once(launchers):
    gang = launchers(low=1, high=1)
    gang.tell("compile")
    gang.start("a")
    for _ in until("the compilation"):
        if (gang.folder / "compiling").exists():
            break
    gang.agents["a"].terminate()
    code, words = gang.end("a")
    assert (code, words.message) == (143, "asked to stop; no step was made yet")


def test_the_failure_of_a_round_that_is_over_ends_nothing(launchers):
    """A launcher is stopped, its rank fails, the others go on; then it wakes."""
    gang = launchers(low=1, high=2, timing=replace(QUICK, dead=1.5))
    gang.start("a", "b")
    _, ranks = gang.round(world=2)
    stopped = next(r for r in ranks if r["agent"] == gang.agents["b"].pid)
    other = next(r for r in ranks if r is not stopped)
    gang.agents["b"].send_signal(signal.SIGSTOP)
    gang.tell(f"fail-{stopped['rank']}")
    wait_for_death(stopped["pid"])
    (gang.folder / f"fail-{stopped['rank']}").unlink()
    os.kill(other["pid"], signal.SIGKILL)
    number, _ = gang.round(world=1, after=1)
    gang.agents["b"].send_signal(signal.SIGCONT)
    gang.round(world=2, after=number)
    gang.tell("finish")
    assert [gang.end(name)[0] for name in ("a", "b")] == [0, 0]


def test_a_rank_that_raises_ends_the_attempt_for_all_with_its_code(launchers):
    gang = launchers(low=2, high=2)
    gang.start("a", "b")
    gang.round(world=2)
    gang.tell("fail-1")
    for name in ("a", "b"):
        code, words = gang.end(name)
        assert code == 5
        assert (words.error, words.rank, words.traceback) == ("TrainingError", 1, "tb")
        assert words.step > 0


def test_a_stalled_rank_dumps_its_stacks_and_is_restarted(launchers):
    gang = launchers(low=1, high=1, stall_floor=2.0)
    gang.start("a")
    gang.round(world=1)
    time.sleep(0.5)
    gang.tell("stall-0")
    gang.round(world=1, after=1)
    assert (gang.folder / "dumped-1-0").exists()
    progress = Progress.from_json(gang.page("a", "/progress"))
    assert progress.restarts == {"stall": 1}
    assert (progress.round, progress.world_size, progress.steps) == (2, 1, 100)
    assert 'pangu_train_restarts_total{cause="stall"} 1.0' in gang.page("a", "/metrics")


def test_a_waiting_agent_gives_up_when_the_store_stays_away(launchers):
    gang = launchers(store_away=0.5)
    gang.stop_store()
    gang.start("a")
    code, words = gang.end("a")
    assert (code, words.error) == (201, "RendezvousError")


def test_a_rank_that_dies_again_and_again_without_a_step_ends_the_attempt(launchers):
    gang = launchers(low=1, high=1)
    gang.tell("crash")
    gang.start("a")
    code, words = gang.end("a")
    assert (code, words.error) == (1, "RankDied")
    assert words.message.startswith("rank 0: killed by SIGSEGV: must end")
    assert words.message.endswith("; 3 times without a new step")


def test_an_agent_that_pauses_while_its_ranks_end_still_reads_their_result(launchers):
    gang = launchers(low=1, high=1)
    gang.start("a")
    _, (rank,) = gang.round(world=1)
    gang.agents["a"].send_signal(signal.SIGSTOP)
    gang.tell("finish")
    wait_for_death(rank["pid"])
    gang.agents["a"].send_signal(signal.SIGCONT)
    code, words = gang.end("a")
    assert (code, words.manifest_sha256) == (0, "ab" * 32)
