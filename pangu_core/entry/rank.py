"""What each training process runs: join the group, train, leave with an exit code."""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pangu_core import log
from pangu_core.config.stages import TrainConfig
from pangu_core.dist import is_lost_peer, process_group, topology
from pangu_core.entry.process import failure, read_config
from pangu_core.errors import RendezvousError
from pangu_core.launch.parent_death import die_with_parent
from pangu_core.launch.rank_names import name_this_process, rank_name
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop, Outcome
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests

ERROR_FILE_VARIABLE = "PANGU_ERROR_FILE"


def main() -> NoReturn:
    """Train, and end; an error is left in the file that the launcher named."""
    die_with_parent()
    rank, round_number = (int(os.environ.get(name, "0")) for name in ("RANK", "PANGU_ROUND"))
    name_this_process(rank_name(rank, round_number))
    log.set_up(f"rank {rank}")
    stop = StopRequests()
    stop.listen()
    try:
        code = train(stop, round_number).code
    except Exception as error:  # the border: the launcher reads what is left here
        traceback.print_exc()
        code = RendezvousError.exit_code if is_lost_peer(error) else _leave_message(error)
    # At once. After an error, taking the process group down would wait for peers. And Python's
    # own end takes seconds with all that torch loaded; it first gives signal handlers back, so
    # that a second request to stop would kill a rank that has saved, and make it look lost.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def train(stop: StopRequests, round_number: int) -> Outcome:
    """One round of training in this process."""
    config = read_config(TrainConfig)
    heartbeat = Heartbeat(config.train.steps)
    heartbeat.beat("start")
    with process_group():
        place = topology(config.train.tensor_parallel)
        session = Session.open(config, place, heartbeat.alive)
        loop = Loop(session, stop=stop, heartbeat=heartbeat, round_number=round_number)
        return loop.run()


def _leave_message(error: Exception) -> int:
    message = failure(error)
    path = os.environ.get(ERROR_FILE_VARIABLE)
    if path:
        Path(path).write_text(message.to_json(), encoding="utf-8")
    return message.code


if __name__ == "__main__":
    main()
