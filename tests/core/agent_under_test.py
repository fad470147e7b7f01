"""A launcher with fake ranks and short limits; the arguments are its settings, as JSON."""

import json
import os
import sys
from pathlib import Path

from pangu_core.entry import process
from pangu_core.entry.train_pod import train
from pangu_core.launch.heartbeat import StallLimits
from pangu_core.launch.settings import AgentSettings, Limits
from pangu_core.launch.stop import StopRequest
from pangu_core.rendezvous.protocol import Rules

values = json.loads(sys.argv[1])
settings = AgentSettings(
    name=values["name"],
    address="127.0.0.1",
    gang="test-1",
    rules=Rules(**values["rules"]),
    processes=values["processes"],
    store_host="127.0.0.1",
    store_port=values["port"],
    command=(sys.executable, str(Path(__file__).with_name("fake_rank.py"))),
    environment=dict(os.environ),
    progress_port=0,
    limits=Limits(
        tick=0.02,
        store_away=values["store_away"],
        crashes=3,
        dump=0.3,
        stall=StallLimits(floor=values["stall_floor"], factor=10.0, other=100.0),
    ),
)
sys.exit(process.run("train", lambda: train(settings, StopRequest.installed())))
