"""Slows the ranks of a gang without work for the processor, so that tests can act in time.

On PYTHONPATH, Python runs it in every process; it concerns ranks alone. Before a rank's heartbeat
goes out (a step's) or when it is out (other phases'), it sleeps as long as the JSON file that
PANGU_TEST_PACE names says for that phase.
"""

import json
import os
import time
from pathlib import Path

PACE = os.environ.get("PANGU_TEST_PACE")
PIPE = os.environ.get("PANGU_HEARTBEAT_FD")
write = os.write


def paced_write(descriptor: int, data: bytes) -> int:
    """Write; heartbeats when their time has come."""
    if descriptor != int(PIPE or -1):
        return write(descriptor, data)
    phase = json.loads(data)["phase"]
    seconds = json.loads(Path(PACE or "").read_text(encoding="ascii")).get(phase, 0.0)
    if phase == "step":
        time.sleep(seconds)
        return write(descriptor, data)
    count = write(descriptor, data)
    time.sleep(seconds)
    return count


if PACE and PIPE:
    os.write = paced_write
