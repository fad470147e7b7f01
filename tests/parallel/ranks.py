"""Runs a test module's functions on N gloo ranks of warm processes.

Ranks are forked from a server process that has torch imported but has run nothing with it, so
a rank starts in milliseconds, and they stay for the whole session.
"""

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

REPLY_SECONDS = 300
NO_ANSWER = f"a rank died, or gave no answer in {REPLY_SECONDS} s"


class RankPool:
    """A growing pool of processes; ``run`` uses the first ``world_size`` of them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "torch.distributed.fsdp", __name__])
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args)`` on every rank of a fresh process group; results by rank.

        The function is found again by its file and name, so it must be a module's own.
        """
        while len(self._workers) < world_size:
            self._start_one()
        where = (function.__code__.co_filename, function.__name__)
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(self._workers[:world_size]):
                pipe.send((where, args, rank, world_size, f"{folder}/store"))
            replies = [self._reply(pipe) for _, pipe in self._workers[:world_size]]
        failures = [reply for ok, reply in replies if not ok]
        if NO_ANSWER in failures:
            self._discard()  # a late answer must not be taken for the next call's
        if failures:
            raise AssertionError(failures[0])
        return [reply for _, reply in replies]

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._workers:
            pipe.close()
            process.join(10)
        self._workers.clear()

    def _discard(self) -> None:
        for process, pipe in self._workers:
            process.kill()
            process.join()
            pipe.close()
        self._workers.clear()

    def _start_one(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._workers.append((process, ours))

    def _reply(self, pipe: Connection) -> tuple[bool, Any]:
        if not pipe.poll(REPLY_SECONDS):
            return False, NO_ANSWER
        try:
            return pipe.recv()
        except EOFError:
            return False, NO_ANSWER


def _serve(pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    modules: dict[str, Any] = {}
    while True:
        try:
            where, args, rank, world_size, store = pipe.recv()
        except EOFError:
            return
        try:
            result = _call(modules, where, args, rank, world_size, store)
            pipe.send((True, result))
        except BaseException:
            pipe.send((False, f"rank {rank}:\n{traceback.format_exc()}"))


def _call(
    modules: dict[str, Any], where: tuple[str, str], args: Any, rank: int, world: int, store: str
) -> Any:
    import torch.distributed as dist

    file, name = where
    if file not in modules:
        spec = importlib.util.spec_from_file_location(f"ranks_{Path(file).stem}", file)
        assert spec is not None
        assert spec.loader is not None
        modules[file] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = modules[file]
        spec.loader.exec_module(modules[file])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        return getattr(modules[file], name)(*args)
    finally:
        if world > 1:
            dist.destroy_process_group()
