"""How a rank ends."""

import subprocess
import sys

import pytest

RANK = """
import os, signal, sys
from pangu_core.entry import rank
from pangu_core.errors import ConfigError
from pangu_core.training.loop import Outcome

class Kept:
    def __del__(self, write=os.write):
        write(2, b"Python took itself down")

def train(stop, round_number):
    if sys.argv[1] == "fail":
        raise ConfigError("a", seen="b", rule="c", fix="d")
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.must_go
    return Outcome(143, step=5)

sys.kept = Kept()
rank.train = train
rank.main()
"""


@pytest.mark.parametrize(("how", "code"), [("stop", 143), ("fail", 2)])
def test_a_rank_ends_at_once_so_that_no_later_signal_changes_its_exit_code(how, code):
    """Python's own end gives signal handlers back long before the process is gone."""
    found = subprocess.run(
        [sys.executable, "-c", RANK, how], capture_output=True, text=True, check=False
    )
    assert found.returncode == code, found.stderr
    assert "took itself down" not in found.stderr
