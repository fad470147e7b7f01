"""pretrain_gpt2: our trainer behind the port's flags, between folders of the port's.

One process, or many under torchrun or torch.distributed.launch. Each checkpoint is written into
``--save`` as the port would, so that its own tools read it.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.agreement import together
from pangu_core.checkpoint.formats import pangu
from pangu_core.checkpoint.formats.form import Request
from pangu_core.checkpoint.formats.megatron import writing
from pangu_core.checkpoint.formats.megatron.names import PORT
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.saver import Saved
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.dist import gather_over_world, process_group, topology
from pangu_core.entry import process
from pangu_core.legacy.parsing import Options, parse
from pangu_core.legacy.train_settings import World, train_config
from pangu_core.legacy.work_folder import RUN, prepare
from pangu_core.messages import Termination
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests
from pangu_core.workspace import WORKSPACE_VARIABLE

SCRIPT: Final = "pretrain_gpt2"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeping:
    """How checkpoints are written into ``--save``."""

    root: Path
    cut: writing.Cut
    dtype: DTypeName | None
    optimizer: bool

    def add(self, checkpoint: Path) -> None:
        """Write a checkpoint of ours as an iteration of the port's."""
        request = Request(run=RUN, dtype=self.dtype, optimizer=self.optimizer)
        weights = pangu.read(checkpoint, request)
        writing.add_iteration(weights, self.root, dialect=PORT, cut=self.cut, report=silent)
        logger.info("written: iteration %d in %s", weights.step, self.root)


@dataclass(frozen=True)
class PortSession(Session):
    """A session whose checkpoints also appear in the port's form."""

    keeping: Keeping | None = None

    def after_commit(self, saved: Saved) -> None:
        """Write the checkpoint again for the port."""
        if self.keeping is not None:
            self.keeping.add(saved.folder)
        super().after_commit(saved)


class Console(Heartbeat):
    """Heartbeats as log lines, one for every so many steps."""

    def __init__(self, steps: int, every: int) -> None:
        super().__init__(steps)
        self._steps, self._every = steps, every

    def beat(self, phase: str, **values: Any) -> None:
        """Log a step that is due, and each evaluation."""
        super().beat(phase, **values)
        step = values.get("step", 0)
        if phase == "step" and (step % self._every == 0 or step == self._steps):
            speed = values["tokens_per_second"]
            logger.info(
                "iteration %d of %d: loss %.4f, %.0f tokens/s",
                *(step, self._steps, values["loss"], speed),
            )
        if "validation_loss" in values:
            logger.info("validation loss %.4f", values["validation_loss"])


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    return process.run(SCRIPT, lambda: run(parse("pretrain", SCRIPT, arguments)))


def run(options: Options) -> Termination:
    """Train, alone or as one rank of those that a launcher started.

    Raises:
        PanguError: the flags do not fit, or training failed.
    """
    world = World.of(options, int(os.environ.get("WORLD_SIZE", "1")))
    stop = StopRequests()
    stop.listen()
    with process_group():
        place = topology(world.tensor_parallel)
        prepared = together(
            lambda: prepare(options, world) if place.is_first else None,
            lambda value: gather_over_world(value, place),
        )[0]
        assert prepared is not None
        os.environ[WORKSPACE_VARIABLE] = prepared.folder
        config = train_config(
            options, world, model=prepared.model, is_finetuning=prepared.is_finetuning
        )
        session = replace(PortSession.open(config, place), keeping=_keeping(options, world))
        heartbeat = Heartbeat(config.train.steps)
        if place.is_first:
            heartbeat = Console(config.train.steps, config.train.log_every_steps)
        outcome = Loop(session, stop=stop, heartbeat=heartbeat).run()
        if place.is_first:
            durable.remove_folder(Path(prepared.folder))
    return Termination(
        code=outcome.code, step=outcome.step, loss=outcome.loss, output=options["save"]
    )


def _keeping(options: Options, world: World) -> Keeping | None:
    if options["save"] is None:
        return None
    return Keeping(
        root=Path(options["save"]),
        cut=writing.Cut(world.tensor_parallel, options["make_vocab_size_divisible_by"]),
        dtype="fp16" if options["fp16"] else None,
        optimizer=not options["no_save_optim"],
    )
