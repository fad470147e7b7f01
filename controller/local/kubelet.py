"""Runs pods as processes and writes what becomes of them into the pods' status, as a kubelet does.

Each pod is a session of its own, so that a terminal's Ctrl-C reaches the runtime alone; a watchdog
kills them all if the runtime is killed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from controller.local import watchdog
from controller.local.pods import LOCAL_ADDRESS, PodLaunch
from k8s.status import to_rfc3339
from pangu_core.messages import TERMINATION_LIMIT_BYTES

Pod = dict[str, Any]
CANNOT_START_CODE: Final = 127
DEFAULT_GRACE_SECONDS: Final = 30
LONGEST_RESTART_SECONDS: Final = 10.0


@dataclass
class _Container:
    """The process of one pod."""

    launch: PodLaunch
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: int = 0
    restarts: int = 0
    restart_at: float | None = None
    kill_at: float | None = None


class Kubelet:
    """The pods' processes. ``clock`` gives unix seconds."""

    def __init__(self, *, logs: Path, clock: Callable[[], float] = time.time) -> None:
        self._logs, self._clock = logs, clock
        self._containers: dict[str, _Container] = {}
        # -I -S: no packages to import, so it is up within milliseconds.
        command = [sys.executable, "-I", "-S", watchdog.__file__]
        self._watchdog = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, pod: Pod, launch: PodLaunch) -> None:
        """Start a pod's process; its output is appended to ``<logs>/<pod>.log``."""
        name = pod["metadata"]["name"]
        container = _Container(launch, self._logs / f"{name}.log")
        self._containers[name] = container
        self._start(pod, container)

    def poll(self, pod: Pod) -> None:
        """Bring a pod's status up to date; kill it once its grace period is over."""
        container = self._containers.get(pod["metadata"]["name"])
        if container is None:
            return
        now = self._clock()
        if container.process is None:
            if container.restart_at is not None and now >= container.restart_at:
                self._start(pod, container)
            return
        code = container.process.poll()
        if code is not None:
            self._ended(pod, container, code if code >= 0 else 128 - code)
        elif container.kill_at is not None and now >= container.kill_at:
            _kill_group(container.process.pid)

    def terminate(self, pod: Pod) -> None:
        """Ask a pod to end: SIGTERM now, SIGKILL after its grace period."""
        grace = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        now = self._clock()
        pod["metadata"]["deletionTimestamp"] = to_rfc3339(int(now) + grace)
        pod["metadata"]["deletionGracePeriodSeconds"] = grace
        container = self._containers.get(pod["metadata"]["name"])
        if container is None:
            return
        container.restart_at = None
        if container.process is not None and container.kill_at is None:
            container.kill_at = now + grace
            with contextlib.suppress(ProcessLookupError):
                container.process.send_signal(signal.SIGTERM)

    def is_alive(self, pod: Pod) -> bool:
        """Whether a pod's process runs."""
        container = self._containers.get(pod["metadata"]["name"])
        return container is not None and container.process is not None

    def remove(self, pod: Pod) -> None:
        """Forget an ended pod and its folder; its log stays."""
        container = self._containers.pop(pod["metadata"]["name"], None)
        if container is not None:
            shutil.rmtree(container.launch.folder, ignore_errors=True)

    def kill_all(self) -> None:
        """End every process at once."""
        for container in self._containers.values():
            if container.process is not None:
                _kill_group(container.process.pid)

    def close(self) -> None:
        """Kill what still runs, and wait for it and for the watchdog."""
        self.kill_all()
        for container in self._containers.values():
            if container.process is not None:
                container.process.wait()
                self._note("-", container.process.pid)
        if self._watchdog.stdin:
            self._watchdog.stdin.close()
        self._watchdog.wait()

    def _start(self, pod: Pod, container: _Container) -> None:
        launch, now = container.launch, int(self._clock())
        container.started_at, container.restart_at = now, None
        shutil.rmtree(launch.folder, ignore_errors=True)
        for path in (launch.folder, container.log.parent, *launch.volumes):
            path.mkdir(parents=True, exist_ok=True)
        with container.log.open("a", encoding="utf-8") as log:
            log.write(f"--- {to_rfc3339(now)} start: {' '.join(launch.command)}\n")
            log.flush()
            try:
                container.process = subprocess.Popen(
                    launch.command,
                    env=dict(launch.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"cannot start: {error}\n")
                launch.termination_file.write_text(f"cannot start: {error}", encoding="utf-8")
                self._ended(pod, container, CANNOT_START_CODE)
                return
        self._note("+", container.process.pid)
        state = {"running": {"startedAt": to_rfc3339(now)}}
        _write_status(pod, "Running", state, container.restarts)

    def _ended(self, pod: Pod, container: _Container, code: int) -> None:
        now = self._clock()
        if container.process is not None:
            # A container ends with its first process: helpers that it left behind are killed.
            _kill_group(container.process.pid)
            self._note("-", container.process.pid)
        container.process, container.kill_at = None, None
        restarts = pod["spec"].get("restartPolicy", "Always") == "Always"
        if restarts and "deletionTimestamp" not in pod["metadata"]:
            container.restarts += 1
            wait = min(LONGEST_RESTART_SECONDS, container.restarts - 1)
            container.restart_at = now + wait
            return
        terminated = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "message": _last_word(container.launch.termination_file),
            "startedAt": to_rfc3339(container.started_at),
            "finishedAt": to_rfc3339(int(now)),
        }
        phase = "Failed" if code else "Succeeded"
        _write_status(pod, phase, {"terminated": terminated}, container.restarts)

    def _note(self, sign: str, pid: int) -> None:
        if self._watchdog.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.write(f"{sign}{pid}\n")
                self._watchdog.stdin.flush()


def _write_status(pod: Pod, phase: str, state: dict[str, Any], restarts: int) -> None:
    container = pod["spec"]["containers"][0]["name"]
    status = {"name": container, "restartCount": restarts, "state": state}
    pod["status"] = {"phase": phase, "podIP": LOCAL_ADDRESS, "containerStatuses": [status]}


def _last_word(path: Path) -> str:
    try:
        return path.read_bytes()[:TERMINATION_LIMIT_BYTES].decode("utf-8", errors="replace")
    except OSError:
        return ""


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
