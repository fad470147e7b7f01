"""Slows the ranks of a gang without work for the processor, so that tests can act in time.

On PYTHONPATH, Python runs it in every process; it concerns ranks alone. Before a rank's heartbeat
goes out, it sleeps as long as the JSON file that PANGU_TEST_PACE names says for that phase. A
rank that has loaded declares the phase "compile", if the file has seconds for it.
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
    line = json.loads(data)
    pace = json.loads(Path(PACE or "").read_text(encoding="ascii"))
    if line["phase"] == "start" and "step" in line and "compile" in pace:
        line["phase"] = "compile"
    if line["phase"] == "step":
        time.sleep(pace.get("step", 0.0))
        return write(descriptor, data)
    count = write(descriptor, json.dumps(line).encode() + b"\n")
    time.sleep(pace.get(line["phase"], 0.0))
    return count


if PACE and PIPE:
    os.write = paced_write
