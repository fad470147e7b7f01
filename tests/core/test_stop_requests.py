"""What a rank makes of signals."""

import signal
import subprocess
import sys

import pytest

# Ends slowly: what Python takes down after it has given signal handlers back takes half a second.
RANK = """
import os, sys, time
from pangu_core.training.signals import StopRequests

class Slow:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(2, b"ending\\n")
        sleep(0.5)

stop = StopRequests()
stop.listen()
if sys.argv[1] == "ignoring":
    stop.ignore()
sys.kept = Slow()
sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_that_comes_while_a_rank_ends_does_not_change_how(number):
    with subprocess.Popen(
        [sys.executable, "-c", RANK, "ignoring"], stderr=subprocess.PIPE, text=True
    ) as rank:
        assert rank.stderr.readline() == "ending\n"
        rank.send_signal(number)
        assert rank.wait(60) == 143
