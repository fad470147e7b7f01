"""kill -9 during a save, at 200 random moments: what was committed is found, nothing else is."""

import os
import random
import signal
import time
import warnings

import torch

from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.store import Store, load_newest
from pangu_core.layout import whole

KILLS = 200


def save(small, root, step):
    """A checkpoint in which every number is the step."""
    filled = {key: torch.full_like(tensor, step) for key, tensor in small.tensors().items()}
    Store(root).save(step, small.pieces(filled, Layout()), small.header())
    Store(root).prune(2)


def load_whole(checkpoint):
    """The step, after every number was seen to be of it."""
    step = checkpoint.manifest.step
    for stored in checkpoint.manifest.slices:
        assert torch.all(checkpoint.read(stored.key, whole(stored.shape)) == step)
    return step


def fork_saver(small, root, first):
    """A child that saves step after step until it is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child needs no other thread
        child = os.fork()
    if child:
        return child
    for step in range(first, first + 1000):
        save(small, root, step)
    os._exit(0)


def test_a_kill_at_any_moment_loses_nothing_that_was_committed(small, tmp_path):
    chance, newest, unfinished = random.Random(0), 0, 0
    save(small, tmp_path, 0)
    start = time.monotonic()
    save(small, tmp_path, 0)  # again, now that all is warm: so long a save takes
    span = time.monotonic() - start
    for _ in range(KILLS):
        child = fork_saver(small, tmp_path, newest + 1)
        time.sleep(chance.uniform(0, 1.2 * span))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        unfinished += bool(list(tmp_path.glob("tmp-step-*")))
        found = load_newest(Store(tmp_path), load_whole)
        assert found >= newest
        newest = found
    assert unfinished > KILLS / 4  # most kills did hit a save
    save(small, tmp_path, newest)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("tmp-", "replaced-"))]
