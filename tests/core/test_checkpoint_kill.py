"""kill -9 during saves, waited for or not: what was committed is found, nothing else is."""

import os
import random
import signal
import time
import warnings
from functools import partial

import torch

from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.saver import Request, Saver
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.store import Store, load_newest
from pangu_core.layout import whole

KILLS = 50
INTERVAL = 3  # steps between saves in the background


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


def fork(work):
    """A child that works until it is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child needs no other thread
        child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def kill(child):
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def save_on(small, root, step):
    """Save step after step and wait for each."""
    for number in range(step, step + 1000):
        save(small, root, number)


def train_on(small, root, step, begun):
    """Steps that write their number everywhere, while every third is saved in the background."""
    store, tensors = Store(root), small.tensors()
    saver = Saver(store, staging=Staging(), after_commit=lambda saved: store.prune(2))
    pieces = small.pieces(tensors, Layout())
    while True:
        step += 1
        for tensor in tensors.values():
            tensor.fill_(step)
        if saver.in_flight and saver.is_idle:
            saver.advance()
        if step % INTERVAL == 0:
            if saver.in_flight:
                saver.finish()
            os.pwrite(begun, step.to_bytes(8, "little"), 0)
            saver.begin(Request(step, small.header()), pieces)


def test_a_kill_at_any_moment_loses_nothing_that_was_committed(small, tmp_path):
    chance, newest, unfinished = random.Random(0), 0, 0
    save(small, tmp_path, 0)
    start = time.monotonic()
    save(small, tmp_path, 0)  # again, now that all is warm: so long a save takes
    span = time.monotonic() - start
    for _ in range(KILLS):
        child = fork(partial(save_on, small, tmp_path, newest + 1))
        time.sleep(chance.uniform(0, 1.2 * span))
        kill(child)
        unfinished += bool(list(tmp_path.glob("tmp-step-*")))
        found = load_newest(Store(tmp_path), load_whole)
        assert found >= newest
        newest = found
    assert unfinished > KILLS / 4  # most kills did hit a save
    save(small, tmp_path, newest)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("tmp-", "replaced-"))]


def test_a_kill_while_training_saves_in_the_background_costs_one_interval(small, tmp_path):
    chance, newest, unfinished = random.Random(0), 0, 0
    save(small, tmp_path, 0)
    start = time.monotonic()
    save(small, tmp_path, 0)
    span = time.monotonic() - start
    with (tmp_path / "begun").open("wb+") as begun:
        for _ in range(KILLS):
            os.truncate(begun.fileno(), 0)
            child = fork(partial(train_on, small, tmp_path, newest, begun.fileno()))
            time.sleep(chance.uniform(0, 3 * span))
            kill(child)
            unfinished += bool(list(tmp_path.glob("tmp-step-*")))
            last = int.from_bytes(os.pread(begun.fileno(), 8, 0), "little")
            found = load_newest(Store(tmp_path), load_whole)
            assert found >= max(newest, last - INTERVAL)
            newest = found
    assert newest > 0
    assert unfinished > KILLS / 4
