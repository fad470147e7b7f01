"""Plays a rank in the launcher's tests: no torch, no peers, told what to do by files.

In the folder FAKE_FOLDER: ``finish`` ends training; ``fail-RANK`` raises; ``stall-RANK`` falls
silent once; ``compile`` keeps it in that phase; ``crash`` kills it before its first step. After
that step each rank leaves ``start-ROUND-RANK.json`` with its pid and environment.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from pangu_core.launch.parent_death import die_with_parent
from pangu_core.messages import Termination

die_with_parent()
folder = Path(os.environ["FAKE_FOLDER"])
rank, number = int(os.environ["RANK"]), os.environ["PANGU_ROUND"]
pipe = int(os.environ["PANGU_HEARTBEAT_FD"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(143))
signal.signal(signal.SIGUSR1, lambda *_: asked.append(202))
signal.signal(signal.SIGUSR2, lambda *_: (folder / f"dumped-{number}-{rank}").touch())


def beat(phase, **values):
    line = {"phase": phase, "step": step, "steps": 100, "loss": 2.5, **values}
    os.write(pipe, json.dumps(line).encode() + b"\n")


step = int((folder / "step").read_text()) if (folder / "step").exists() else 0
beat("start")
if (folder / "crash").exists():
    os.kill(os.getpid(), signal.SIGSEGV)
while (folder / "compile").exists():
    beat("compile")
    (folder / "compiling").touch()
    time.sleep(0.1)
record = {}
while True:
    time.sleep(0.03)
    step += 1
    beat("step")
    if not record:
        record = {"pid": os.getpid(), "world": int(os.environ["WORLD_SIZE"]), "agent": os.getppid()}
        record |= {
            "rank": rank,
            "local": os.environ["LOCAL_RANK"],
            "port": os.environ["MASTER_PORT"],
        }
        draft = folder / f"draft-{number}-{rank}"
        draft.write_text(json.dumps(record))
        draft.rename(folder / f"start-{number}-{rank}.json")
    if (folder / f"stall-{rank}").exists():
        (folder / f"stall-{rank}").unlink()
        while True:
            time.sleep(1)
    if (folder / f"fail-{rank}").exists():
        problem = Termination(code=5, error="TrainingError", message="loss is nan", traceback="tb")
        Path(os.environ["PANGU_ERROR_FILE"]).write_text(problem.to_json())
        sys.exit(5)
    if (folder / "finish").exists():
        beat("done", output="runs/x/checkpoints/step-00000100", manifest_sha256="ab" * 32)
        sys.exit(0)
    if asked or (folder / f"leave-{number}").exists():
        (folder / f"leave-{number}").touch()  # the ranks of a world stop together
        (folder / "step").write_text(str(step))
        sys.exit(asked[0] if asked else 202)
