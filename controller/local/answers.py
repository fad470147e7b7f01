"""Asks the launchers of local pods how far they are."""

import http.client
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from controller.local.pods import LOCAL_ADDRESS
from k8s import names
from pangu_core.launch.progress import PORT_FILE
from pangu_core.messages import Progress

TIMEOUT_SECONDS: Final = 0.5


def ask(pods: Iterable[Mapping[str, Any]], *, folder: Path) -> dict[tuple[str, int], Progress]:
    """The furthest answer of each attempt, by (stage, attempt); silent pods are left out.

    Args:
        pods: the pods that may have a launcher.
        folder: holds a folder for each pod.
    """
    answers: dict[tuple[str, int], Progress] = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        answer = _ask_one(folder / pod["metadata"]["name"] / PORT_FILE)
        if answer is None or pod["status"]["phase"] != "Running":
            continue
        key = (labels[names.STAGE_LABEL], int(labels[names.ATTEMPT_LABEL]))
        best = answers.get(key)
        if best is None or (answer.round, answer.step) > (best.round, best.step):
            answers[key] = answer
    return answers


def _ask_one(port_file: Path) -> Progress | None:
    # Not urllib: it would send the question through a proxy that the environment names.
    connection: http.client.HTTPConnection | None = None
    try:
        port = int(port_file.read_text(encoding="ascii"))
        connection = http.client.HTTPConnection(LOCAL_ADDRESS, port, timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/progress")
        return Progress.from_json(connection.getresponse().read().decode("utf-8"))
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None
    finally:
        if connection:
            connection.close()
