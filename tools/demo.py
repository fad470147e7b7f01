"""The whole main job on this machine: train on real text, lose a process, recover, write Chinese.

    python tools/demo.py [--workspace demo-run]

Ctrl-C ends everything that it started.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click
import psutil

from k8s.spec import PanguJob, parse_job
from pangu_core.data.vocabulary import cache_folder
from pangu_core.errors import ConfigError, PanguError
from pangu_core.launch.rank_names import read_rank_name
from pangu_core.reporting.findings import Findings, gather
from pangu_core.reporting.history import History, read_events, read_history
from pangu_core.workspace import RunPaths

ROOT: Final = Path(__file__).resolve().parents[1]
JOB_FILE: Final = ROOT / "examples" / "tiny-cpu.yaml"
PANGU: Final = str(Path(sys.executable).with_name("pangu"))
MARKER: Final = ".pangu-demo"  # only a folder with this file in it is ever deleted
KILL_AT: Final = 0.4  # of the planned steps
HELD_OUT_LIMIT: Final = 7.0  # nats a token
POLL_SECONDS: Final = 0.2
STOP_SECONDS: Final = 45.0  # for a run to save and end
# "The economy of our country", "In the new year", "At the meeting he said".
PROMPTS: Final = ("我国经济", "在新的一年里", "他在会上说")
# The penalty keeps so young a model from rows of digits.
SAMPLING: Final = (
    *("--max-new-tokens", "60", "--temperature", "0.8", "--top-p", "0.9"),
    *("--repetition-penalty", "1.2"),
)
NATURE: Final = (
    "From a model trained for minutes on one month of newspaper (People's Daily, January 1998)"
)


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path), default=Path("demo-run"))
def main(workspace: Path) -> None:
    """Train, kill, recover, generate, report."""
    # As Ctrl-C: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(demonstrate(workspace))
    except KeyboardInterrupt:
        sys.exit(130)
    except PanguError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def demonstrate(workspace: Path) -> int:
    """All of it; returns the exit code."""
    begin = time.monotonic()
    job = parse_job(JOB_FILE, ())
    run_folder = workspace / RunPaths(job.name).root

    headline("Text and vocabulary")
    run_to_end([sys.executable, str(ROOT / "tools" / "fetch_data.py")])
    prepare(workspace, job)

    headline(f"pangu run {os.path.relpath(JOB_FILE)} --workspace {workspace}")
    command = [PANGU, "run", str(JOB_FILE), "--workspace", str(workspace)]
    with started(command) as child:
        killed_at = kill_one_rank(child, workspace / RunPaths(job.name).metrics)
        code = child.wait()
    if code:
        print(f"\nThe run failed with exit code {code}.")
        return code

    findings = gather(run_folder)
    problems = judge(findings, killed_at)

    headline(NATURE)
    sample = workspace / "sample.txt"
    write_sample(workspace / RunPaths(job.name).model, sample)

    headline("Report")
    run_to_end([PANGU, "report", str(run_folder), "--sample-file", str(sample)])
    print(f"The demo took {time.monotonic() - begin:.0f} s.")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def prepare(workspace: Path, job: PanguJob) -> None:
    """A fresh workspace with the corpus in it; an old one of a demo is deleted.

    Raises:
        ConfigError: the folder is there but is no demo's.
    """
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / MARKER).is_file():
            raise ConfigError(
                "--workspace",
                seen=str(workspace),
                rule="is not a folder that the demo made, so it is not deleted",
                fix="name another folder",
            )
        shutil.rmtree(workspace)
    assert isinstance(job.spec.data.input, str)
    corpus = workspace / job.spec.data.input
    corpus.parent.mkdir(parents=True)
    (workspace / MARKER).touch()
    shutil.copyfile(cache_folder() / corpus.name, corpus)


def kill_one_rank(child: "subprocess.Popen[bytes]", metrics: Path) -> float | None:
    """Kill the last rank once there is a checkpoint to go back to; returns when, in unix seconds.

    None if the run ended before.
    """
    while child.poll() is None:
        history = read(metrics)
        victim = last_rank(child) if is_time(history) else None
        if victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                killed_at = time.time()
                tell_beside_the_table(
                    f"kill -9 {victim.pid}: the last training process is gone, at step "
                    f"{history.steps[-1].step} with a checkpoint of step {history.saves[-1].step}"
                )
                return killed_at
        time.sleep(POLL_SECONDS)
    return None


def is_time(history: History) -> bool:
    """Whether a loss of a process would be worth seeing: far enough, with a checkpoint."""
    if not history.steps or not history.saves or history.planned_steps is None:
        return False
    reached, saved = history.steps[-1].step, history.saves[-1].step
    return reached > saved and reached >= KILL_AT * history.planned_steps


def last_rank(child: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """The training process with the highest rank among the run's descendants."""
    ranks: dict[int, psutil.Process] = {}
    for process in psutil.Process(child.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if place := read_rank_name(process.name()):
                ranks[place[0]] = process
    return ranks[max(ranks)] if ranks else None


def judge(findings: Findings, killed_at: float | None) -> list[str]:
    """Print what came out; returns what is wrong with it."""
    problems = []
    headline("Results")
    steps = [step.time for step in findings.history.all_steps]
    after = next((at for at in steps if killed_at is not None and at > killed_at), None)
    if killed_at is None or after is None or not findings.history.restarts:
        problems.append("no process was lost and replaced")
    else:
        restart = findings.history.restarts[-1]
        print(f"From kill -9 to the next step   {after - killed_at:6.1f} s")
        print(f"Steps done again                {restart.steps_redone:6}")
    loss = findings.held_out_loss
    if loss is None or not loss <= HELD_OUT_LIMIT:
        seen = "is not known" if loss is None else f"is {loss:.2f}"
        problems.append(f"the held-out loss {seen}, at most {HELD_OUT_LIMIT} is expected")
    if loss is not None and findings.ngrams is not None:
        ngrams = findings.ngrams
        print(f"Held-out loss                   {loss:6.2f} nats a token")
        print(f"  counting single tokens        {ngrams.unigram:6.2f} (unigram)")
        print(f"  counting pairs                {ngrams.bigram:6.2f} (bigram)")
    return problems


def write_sample(model: Path, sample: Path) -> None:
    """Let the model go on from each prompt, streaming to the terminal and into a file."""
    with sample.open("wb") as file:
        for prompt in PROMPTS:
            command = [PANGU, "generate", "--model", str(model), "--prompt", prompt, *SAMPLING]
            lead = f"{prompt} | ".encode()  # only now: the loading bar clears its line
            with started(command, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                while data := os.read(child.stdout.fileno(), 4096):
                    show(lead + data, file.fileno())
                    lead = b""
                check(child.wait(), command)
            show(b"\n", file.fileno())


def show(data: bytes, file: int) -> None:
    """Write to the terminal at once, and to a file."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    os.write(file, data)


def read(metrics: Path) -> History:
    """The history so far; empty before there is a file."""
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return History()
    return read_history(read_events(lines))


@contextlib.contextmanager
def started(
    command: Sequence[str], stdout: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that does not outlive this block: it is asked to end, then killed."""
    child = subprocess.Popen(command, stdout=stdout)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                # 'pangu run' has a watchdog that ends its processes with it.
                child.kill()
                child.wait()


def run_to_end(command: Sequence[str]) -> None:
    """Run a command that has to succeed."""
    with started(command) as child:
        check(child.wait(), command)


def check(code: int, command: Sequence[str]) -> None:
    """Leave with the exit code of a command that failed; it has said why."""
    if code:
        print(f"FAILED with exit code {code}: {' '.join(command)}")
        sys.exit(code if code > 0 else 128 - code)


def headline(text: str) -> None:
    """Say what comes next."""
    print(f"\n== {text}", flush=True)


def tell_beside_the_table(text: str) -> None:
    """Write a line while the run draws its table: below it, with room for the next drawing."""
    is_terminal = sys.stdout.isatty()
    print(f"\n\n{text}" + "\n" * 7 if is_terminal else text, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
