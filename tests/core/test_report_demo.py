"""The demo's own decisions, with a stub in the place of a run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from k8s.spec import parse_job
from pangu_core.errors import ConfigError
from pangu_core.reporting.findings import Findings
from pangu_core.reporting.history import Evaluation, History, Restart, Save, Step
from pangu_core.reporting.ngrams import NgramLosses

SCRIPT = Path(__file__).parents[2] / "tools/demo.py"
# Starts two "ranks", ends well once the second is killed, and takes the first one along.
RUN = """
import subprocess, sys
rank = "import sys, time; from pangu_core.launch import rank_names as names; "
rank += "names.name_this_process(names.rank_name(int(sys.argv[1]), 1)); time.sleep(60)"
ranks = [subprocess.Popen([sys.executable, "-c", rank, number]) for number in "01"]
code = ranks[1].wait()
first = ranks[0].poll()
ranks[0].kill()
sys.exit(0 if (code, first) == (-9, None) else 1)
"""


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(*times: float) -> tuple[Step, ...]:
    return tuple(Step(time, n, 7.0, 0.001, 100.0, n, 0) for n, time in enumerate(times, start=1))


def history(*times: float, saved: int | None = None, planned: int = 10) -> History:
    saves = () if saved is None else (Save(0.0, saved, 0.1),)
    return History(all_steps=steps(*times), saves=saves, planned_steps=planned)


def found(
    loss: float, *, restarts: tuple[Restart, ...] = (Restart(5.0, 4, 1, 2, 9.0),)
) -> Findings:
    evaluations = (Evaluation(9.0, 3, loss),)
    run = History(all_steps=steps(1.0, 5.0, 9.0), evaluations=evaluations, restarts=restarts)
    return Findings("r", run, None, NgramLosses(7.7, 6.1, 10, 10, 10))


def test_a_process_is_killed_late_enough_and_with_work_to_lose(demo: ModuleType) -> None:
    assert not demo.is_time(History())
    assert not demo.is_time(history(1, 2, 3, 4, saved=None))
    assert not demo.is_time(history(1, 2, 3, saved=2))
    assert not demo.is_time(history(1, 2, 3, 4, saved=4))
    assert demo.is_time(history(1, 2, 3, 4, saved=3))


def test_the_last_rank_of_the_run_is_killed(demo: ModuleType, tmp_path: Path) -> None:
    step = {"learning_rate": 0.1, "tokens_per_second": 1.0, "tokens": 1, "loss": 8.0}
    lines = [
        {"time": 1.0, "event": "start", "step": 0, "steps": 5, "world_size": 2},
        {"time": 2.0, "event": "save", "step": 1, "seconds": 0.1},
        {"time": 3.0, "event": "step", "step": 2, **step},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with demo.started([sys.executable, "-c", RUN]) as child:
        assert demo.kill_one_rank(child, tmp_path / "metrics.jsonl") is not None
        assert child.wait(30) == 0


def test_a_run_that_ends_by_itself_had_nothing_killed(demo: ModuleType, tmp_path: Path) -> None:
    with demo.started([sys.executable, "-c", ""]) as child:
        assert demo.kill_one_rank(child, tmp_path / "metrics.jsonl") is None


def test_what_was_started_is_ended_on_the_way_out(demo: ModuleType) -> None:
    def interrupted() -> "subprocess.Popen[bytes]":
        with demo.started([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
            children.append(child)
            raise KeyboardInterrupt

    children: list[subprocess.Popen[bytes]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert children[0].poll() is not None


def test_a_good_run_has_no_problems(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.judge(found(6.9), 5.5) == []
    assert "next step      3.5 s" in capsys.readouterr().out


def test_no_kill_no_recovery_and_a_high_loss_are_problems(demo: ModuleType) -> None:
    assert len(demo.judge(found(7.1), 5.5)) == 1
    assert len(demo.judge(found(float("nan")), 5.5)) == 1
    assert len(demo.judge(found(6.9), None)) == 1
    assert len(demo.judge(found(6.9), 10.0)) == 1
    assert len(demo.judge(found(6.9, restarts=()), 5.5)) == 1


def test_only_a_folder_of_its_own_is_deleted(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = parse_job(demo.JOB_FILE, ())
    (tmp_path / "pangu").mkdir()
    (tmp_path / "pangu" / "peoples_daily.txt").write_text("text")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    work = tmp_path / "work"
    demo.prepare(work, job)
    (work / "old").touch()
    demo.prepare(work, job)
    assert not (work / "old").exists()
    assert (work / "corpus" / "peoples_daily.txt").read_text() == "text"
    (work / demo.MARKER).unlink()
    with pytest.raises(ConfigError, match="not deleted"):
        demo.prepare(work, job)
