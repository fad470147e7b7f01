"""How long the command takes to answer: best and median of several runs, and what it loads.

``pangu --help`` should take less than 0.2 s, ``pangu render`` less than 0.35 s, a verb that asks a
cluster less than 1 s; those are asked of a server on this machine that has no jobs. Run it from the
checkout, on an idle machine:

    python bench/command_line.py [--runs 10]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import click

ROOT = Path(__file__).parents[1]
PANGU = str(Path(sys.executable).with_name("pangu"))
JOB = "examples/tiny-cpu.yaml"
HEAVY = ("torch", "numpy", "fsspec", "transformers")
LISTED = (
    "pangujobs",
    "panguservices",
    "deployments",
    "nodes",
    "storageclasses",
    "persistentvolumeclaims",
)
# What an interpreter with nothing to do takes: no verb can be faster.
NOTHING = (sys.executable, "-c", "")


@dataclass(frozen=True)
class Case:
    """One use of the command."""

    title: str
    arguments: tuple[str, ...]
    limit_seconds: float


CASES = (
    Case("--help", ("--help",), 0.2),
    Case("validate", ("validate", JOB), 0.35),
    Case("render", ("render", JOB), 0.35),
    Case("status", ("status",), 1.0),
    Case("status --json", ("status", "--json"), 1.0),
    Case("submit --dry-run=client", ("submit", JOB, "--dry-run=client"), 1.0),
    Case("doctor", ("doctor",), 1.0),
)


class Empty(BaseHTTPRequestHandler):
    """An API server in which there is nothing."""

    def do_GET(self) -> None:
        """Lists are empty, objects are missing."""
        path = self.path.partition("?")[0]
        if path == "/version":
            self._answer({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        elif path.rpartition("/")[2] in LISTED:
            self._answer({"items": [], "metadata": {"resourceVersion": "1"}})
        else:
            self._answer({"message": "there is none", "reason": "NotFound"}, 404)

    def do_POST(self) -> None:
        """Everything is allowed."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"status": {"allowed": True}})

    def _answer(self, body: object, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def seconds_of(command: tuple[str, ...], runs: int, environment: dict[str, str]) -> list[float]:
    """Wall-clock seconds of each run, after one that warms the caches."""
    taken = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def loaded(case: Case, environment: dict[str, str]) -> list[str]:
    """Which of the heavy packages a use of the command imports."""
    program = (
        "import sys\nfrom controller.cli import main\n"
        f"main({list(case.arguments)!r})\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stderr.split()


def kubeconfig(folder: Path, port: int) -> Path:
    """Of the server on this machine."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@click.command()
@click.option("--runs", default=10, show_default=True, help="Runs of each.")
def main(runs: int) -> None:
    """Measure, and print one table."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        path = kubeconfig(Path(folder), server.server_address[1])
        environment = {"KUBECONFIG": str(path), "PATH": "/usr/bin:/bin", "HOME": folder}
        print("| command | best | median | limit | loads |")
        print("| --- | --- | --- | --- | --- |")
        taken = seconds_of(NOTHING, runs, environment)
        print(f"| python alone | {min(taken):.3f} s | {median(taken):.3f} s | | |")
        for case in CASES:
            taken = seconds_of((PANGU, *case.arguments), runs, environment)
            heavy = ", ".join(loaded(case, environment)) or "none of torch, numpy"
            print(
                f"| pangu {case.title} | {min(taken):.3f} s | {median(taken):.3f} s "
                f"| {case.limit_seconds} s | {heavy} |"
            )
    server.shutdown()


if __name__ == "__main__":
    main()
