"""Runs one job on this machine: the local rim around ``reconcile``.

A stop (Ctrl-C, SIGTERM) is a suspension: pods get SIGTERM and their grace period, the status says
Suspended, and the next start resumes with the next attempt. A second one kills.
"""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from controller.actions import Action, Create, Delete, Release
from controller.local.answers import ask
from controller.local.cluster import LocalCluster
from controller.local.folder import RunFolder
from controller.observe import (
    ClaimView,
    JobView,
    Observed,
    attempts_of,
    is_of_the_store,
)
from controller.reconcile import reconcile
from controller.story import Reporter, Snapshot
from controller.transitions import transitions
from k8s.status import JobStatus
from pangu_core.messages import Progress

TICK_SECONDS: Final = 0.1
ASK_PERIOD_SECONDS: Final = 1.0
SIGNALLED: Final = 128
FOLDER: Final = ClaimView("Bound", ("ReadWriteMany",))  # what a folder is as a claim

Render = Callable[[str, int], list[dict[str, Any]]]  # (stage, attempt) -> manifests


class LocalRuntime:
    """One start of one job."""

    def __init__(
        self,
        view: JobView,
        render: Render,
        *,
        folder: RunFolder,
        cluster: LocalCluster,
        reporter: Reporter,
        status: JobStatus,
    ) -> None:
        self._view, self._render = view, render
        self._folder, self._cluster, self._reporter = folder, cluster, reporter
        self._status = status
        self._wake = threading.Event()
        self._stops: list[int] = []  # signals in the order in which they came
        self._answers: dict[tuple[str, int], Progress] = {}
        self._ask_at = 0.0

    @property
    def status(self) -> JobStatus:
        """What is remembered of the job."""
        return self._status

    def stop(self, number: int, _frame: object = None) -> None:
        """A signal handler: the first asks the pods to save and end, the second kills them."""
        self._stops.append(number)
        self._wake.set()

    def run(self) -> int:
        """Run until the job has ended or was stopped; return its exit code.

        0 complete; the failing attempt's code; 128 + the signal's number if stopped.
        """
        self._folder.save(self._view.generation, self._status)
        while not self._is_over():
            self._turn()
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
        self._show()
        shutil.rmtree(self._folder.local, ignore_errors=True)
        if self._status.is_terminal:
            return self._status.exit_code or 0
        return SIGNALLED + (self._stops[0] if self._stops else signal.SIGTERM)

    def _is_over(self) -> bool:
        ended = self._status.is_terminal or self._status.phase == "Suspended"
        return ended and not self._cluster.has_processes()

    def _turn(self) -> None:
        now = time.time()
        self._hear_stops()
        self._cluster.poll()
        self._ask(now)
        decision = reconcile(self._observe(), now)
        self._remember(decision.status)
        for action in decision.actions:
            self._carry_out(action)
        self._cluster.operate()
        self._show()

    def _hear_stops(self) -> None:
        if self._stops and not self._view.suspend:
            self._view = replace(self._view, suspend=True)
        if len(self._stops) > 1:
            self._cluster.kill_all()

    def _ask(self, now: float) -> None:
        if now >= self._ask_at:
            trainers = [pod for pod in self._cluster.pods() if not is_of_the_store(pod)]
            self._answers = ask(trainers, folder=self._folder.local / "pods")
            self._ask_at = now + ASK_PERIOD_SECONDS

    def _observe(self) -> Observed:
        attempts = attempts_of(self._cluster.objects(), progress=self._answers)
        return Observed(self._view, self._status, attempts, claim=FOLDER)

    def _remember(self, status: JobStatus) -> None:
        """Write the status before anything is done, so that no attempt is ever forgotten."""
        if status == self._status:
            return
        before, self._status = self._status, status
        self._folder.save(self._view.generation, status)
        self._reporter.tell([change.text for change in transitions(before, status)])

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Create):
            self._cluster.create(self._render(action.stage, action.attempt))
        elif isinstance(action, Delete):
            self._cluster.delete(action.stage, action.attempt)
        elif isinstance(action, Release):
            self._cluster.release(action.stage, action.attempt)
        # The others never come up: a folder is there, the file cannot be edited while it runs,
        # no node is lost, and nothing is deleted here.

    def _show(self) -> None:
        observed = self._observe()
        self._reporter.show(Snapshot(observed.status, observed.attempts, time.time()))
