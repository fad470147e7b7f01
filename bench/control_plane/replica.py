"""A replica of the controller as its own process, and what it says of itself."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

from pangu_core.rendezvous.ports import free_port

USER: Final = "pangu-controller"
MEGABYTE: Final = 1e6


class Replica:
    """``pangu controller`` with its defaults.

    Args:
        kubeconfig: who it is, and where the API server is.
        namespace: the one it watches, where its Lease is too.
        log: file that its output is appended to.
    """

    def __init__(self, kubeconfig: Path, namespace: str, log: Path) -> None:
        self._port = free_port()
        program = str(Path(sys.executable).with_name("pangu"))
        ports = ("--probe-port", str(self._port))
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program, "controller", "-n", namespace, "--lease-namespace", namespace, *ports],
                env={**os.environ, "KUBECONFIG": str(kubeconfig)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def is_ready(self) -> bool:
        """Whether it has listed everything."""
        return self._ask("readyz") is not None

    @property
    def leads(self) -> bool:
        """Whether it holds the Lease."""
        return self._metric("pangu_controller_leader") == 1

    @property
    def queue_length(self) -> float:
        """Jobs that wait or are being worked on."""
        return self._metric("pangu_controller_queue_length")

    @property
    def rss_megabytes(self) -> float:
        """Resident memory now."""
        text = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1]) * 1024 / MEGABYTE

    @property
    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as a lost node would."""
        self._process.kill()
        self._process.wait()

    def _metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self._ask("metrics") or "", re.MULTILINE)
        return float(found[1]) if found else float("nan")

    def _ask(self, path: str) -> str | None:
        try:
            url = f"http://127.0.0.1:{self._port}/{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None
