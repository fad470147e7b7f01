"""The training loop of one rank: step, report, evaluate, save, and stop at a boundary."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pangu_core.dist import sum_over_world
from pangu_core.errors import (
    EXIT_COMPLETE,
    EXIT_REJOIN,
    EXIT_STOPPED,
    DataError,
    TrainingError,
)
from pangu_core.parallel.rng import DropoutKey
from pangu_core.training.diagnosis import describe, find_faults
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.metrics import MetricsWriter, finite, flops_per_token, utilisation
from pangu_core.training.sample_log import SampleLog
from pangu_core.training.saving import Saving
from pangu_core.training.schedule import learning_rate
from pangu_core.training.session import Session, relative_to_workspace
from pangu_core.training.signals import StopRequests
from pangu_core.training.skipping import Patience
from pangu_core.training.state import Position
from pangu_core.training.step import MicroBatch, StepResult, evaluate, train_step
from pangu_core.workspace import RunPaths, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How this rank's training ended."""

    code: int
    step: int
    loss: float | None = None
    output: str | None = None  # the final checkpoint's folder, relative to the workspace
    manifest_sha256: str | None = None


@dataclass(frozen=True)
class Agreement:
    """What all ranks know of each other before a step."""

    num_tokens: float  # whose loss counts, in the global batch
    must_stop: bool
    are_all_idle: bool  # no rank has anything to do in the background


class Loop:
    """Runs the steps of one round.

    Args:
        session: what to train with.
        stop: requests to stop, set by signal handlers.
        heartbeat: the line to the launcher.
        round_number: which round of the rendezvous this is; for the metrics only.
    """

    def __init__(
        self,
        session: Session,
        *,
        stop: StopRequests,
        heartbeat: Heartbeat,
        round_number: int = 0,
    ) -> None:
        self.session = session
        self.stop = stop
        self.heartbeat = heartbeat
        self.round_number = round_number
        self.saving = Saving(session, heartbeat=heartbeat, write=self._write)
        self.patience = Patience(session.config.train)
        self.metrics: MetricsWriter | None = None
        self.samples: SampleLog | None = None
        self.speed = Speed()

    def run(self) -> Outcome:
        """Train to the last step, or to the boundary at which all ranks agree to stop."""
        position, resumed = self.session.load(self.heartbeat.alive)
        self.saving.resume(position, resumed)
        self.heartbeat.beat("start", step=position.step, skipped=position.skipped)
        with self._open_metrics() as self.metrics, self._open_samples() as self.samples:
            self._write(
                "start",
                step=position.step,
                steps=self.session.plan.steps,
                attempt=self.session.config.run.attempt,
                round=self.round_number,
                world_size=self.session.place.world_size,
            )
            if self.session.config.train.compile:
                self.heartbeat.beat("compile")  # until the first step ends
            try:
                return self._train(position)
            except TrainingError as error:  # the numbers are the world's, so all ranks are here
                self.saving.record_failure(error)
                raise

    def _train(self, position: Position) -> Outcome:
        session, loss = self.session, None
        while position.step < session.plan.steps:
            batches = session.feed.training_batches(position.samples, session.place.dp)
            agreed = self._agree(batches)
            self._pause(self.saving.advance(are_all_idle=agreed.are_all_idle))
            if agreed.must_stop:
                self.saving.save_now(position)
                return self._leave(position, loss)
            before, result = position, self._step(position, batches, agreed.num_tokens)
            loss = finite(result.loss)
            position = before.after(
                result,
                num_samples=session.plan.global_batch_size,
                settings=session.config.train.loss_scale,
            )
            if self.samples is not None:
                self.samples.write(position.step, batches)
            if result.is_applied:
                self._report(position, result)
            else:
                self._report_skip(before, position, result)
            if self.patience.is_over(result, before.loss_scale):
                where = self._find_faults(before, batches, agreed.num_tokens)
                raise self.patience.error(position.step, result, before.loss_scale, where)
            self._evaluate_when_due(position)
            self._pause(self.saving.save_when_due(position, result))
        return self._complete(position, loss)

    def _agree(self, batches: list[MicroBatch]) -> Agreement:
        """One reduction a step."""
        place, stop = self.session.place, self.stop
        own = sum(float(batch.loss_mask.sum()) for _, batch in batches)
        values = [
            own if place.tp.rank == 0 else 0.0,
            float(stop.must_go or stop.must_regroup),
            float(self.saving.is_idle),
        ]
        tokens, stopping, idle = sum_over_world(values, place)
        if not tokens:
            raise DataError(
                "a global batch",
                seen="no token whose loss counts",
                rule="must hold at least one",
                fix="raise train.globalBatchSize, or look at the mask beside the token files",
            )
        return Agreement(tokens, stopping > 0, idle == place.world_size)

    def _pause(self, has_paused: bool) -> None:
        """Leave the time that something else than steps took out of the speed."""
        if has_paused:
            self.speed.restart()

    def _step(self, position: Position, batches: list[MicroBatch], num_tokens: float) -> StepResult:
        session, train = self.session, self.session.config.train
        return train_step(
            session.replica,
            batches,
            num_tokens=num_tokens,
            dropout=DropoutKey(train.seed, position.step + 1, 0),
            rate=learning_rate(position.updates + 1, train.optimizer, session.plan.steps),
            clip_norm=train.optimizer.clip_grad_norm,
            loss_scale=position.gradient_factor,
        )

    def _find_faults(self, position: Position, batches: list[MicroBatch], num_tokens: float) -> str:
        """Name the samples that spoil the step which begins at this position."""
        session = self.session
        self.heartbeat.beat("evaluate")  # as long as an evaluation may take
        faults = find_faults(
            session.replica,
            batches,
            num_tokens=num_tokens,
            dropout=DropoutKey(session.config.train.seed, position.step + 1, 0),
            loss_scale=position.gradient_factor,
        )
        return describe(
            faults,
            first_sample=position.samples,
            micro_batch_size=session.plan.micro_batch_size,
        )

    def _report(self, position: Position, result: StepResult) -> None:
        session = self.session
        speed = self.speed.count(session.plan.tokens_per_step)
        self.heartbeat.beat("step", step=position.step, loss=result.loss, tokens_per_second=speed)
        train = session.config.train
        if position.step % train.log_every_steps and position.step < session.plan.steps:
            return
        flops = flops_per_token(session.model_config, session.plan.sequence_length)
        self._write(
            "step",
            step=position.step,
            loss=result.loss,
            learning_rate=learning_rate(position.updates, train.optimizer, session.plan.steps),
            grad_norm=result.grad_norm,
            tokens_per_second=speed,
            mfu=speed and utilisation(speed, flops, session.place.world_size, session.place.device),
            tokens=position.samples * session.plan.sequence_length,
            epoch=session.feed.epoch(position.samples),
            round=self.round_number,
            world_size=session.place.world_size,
            **_skips(position),
        )

    def _report_skip(self, before: Position, position: Position, result: StepResult) -> None:
        """Tell of a step without an update; it gets no step line, whose numbers are all finite."""
        if self.session.place.is_first:
            logger.warning(
                "step %d is skipped: loss %g, gradient norm %g, loss scale %g",
                position.step,
                result.loss,
                result.grad_norm,
                before.gradient_factor,
            )
        self.speed.count(self.session.plan.tokens_per_step)
        self.heartbeat.beat(
            "step", step=position.step, loss=finite(result.loss), skipped=position.skipped
        )
        self._write(
            "skip",
            step=position.step,
            loss=finite(result.loss),
            grad_norm=finite(result.grad_norm),
            **_skips(position),
        )

    def _evaluate_when_due(self, position: Position) -> None:
        session, settings = self.session, self.session.config.train.evaluate
        is_last = position.step == session.plan.steps
        if not session.feed.has_validation or (
            position.step % settings.every_steps and not is_last
        ):
            return
        self.heartbeat.beat("evaluate")
        batches = session.feed.validation_batches(settings.batches, session.place.dp)
        loss = evaluate(session.replica, batches, must_stop=self._is_interrupted)
        if loss is None:
            logger.info("step %d: the evaluation was broken off by a stop", position.step)
            return
        self.heartbeat.beat("evaluate", validation_loss=finite(loss))
        if finite(loss) is None:
            logger.warning("step %d: the validation loss is %g", position.step, loss)
        else:
            self._write("evaluate", step=position.step, validation_loss=loss)
            self.saving.evaluated(loss)
        self.speed.restart()

    def _is_interrupted(self) -> bool:
        """Asked between two batches of an evaluation."""
        self.heartbeat.alive()
        return self.stop.is_asked

    def _complete(self, position: Position, loss: float | None) -> Outcome:
        """The final checkpoint's manifest is the proof of success."""
        saved = self.saving.save_final(position)
        if not self.saving.finish_copies(lambda: self.stop.is_asked):
            return self._leave(position, loss)
        output = relative_to_workspace(saved.folder)
        self.heartbeat.beat("done", output=output, manifest_sha256=saved.manifest_sha256)
        return Outcome(EXIT_COMPLETE, position.step, loss, output, saved.manifest_sha256)

    def _leave(self, position: Position, loss: float | None) -> Outcome:
        """The end of a round that goes on elsewhere, or later."""
        code = EXIT_STOPPED if self.stop.must_go else EXIT_REJOIN
        return Outcome(code, position.step, loss)

    def _open_metrics(self) -> AbstractContextManager[MetricsWriter | None]:
        if not self.session.place.is_first:
            return nullcontext()
        paths = RunPaths(self.session.config.run.name)
        return MetricsWriter(resolve(paths.metrics), resolve(paths.tensorboard))

    def _open_samples(self) -> AbstractContextManager[SampleLog | None]:
        """Tensor ranks train on the same samples: one of them tells."""
        session = self.session
        if not session.config.train.log_samples or session.place.tp.rank:
            return nullcontext()
        return SampleLog(
            resolve(RunPaths(session.config.run.name).samples),
            rank=session.place.rank,
            attempt=session.config.run.attempt,
            round_number=self.round_number,
        )

    def _write(self, event: str, **values: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(event, **values)


def _skips(position: Position) -> dict[str, float]:
    """What lines of metrics say of steps without an update, and of the scale of the next step."""
    scale = position.loss_scale
    return {"skipped": position.skipped} | ({"loss_scale": scale.scale} if scale else {})


class Speed:
    """Tokens per second of optimizer steps, smoothed.

    Loading, evaluation and saving do not count, nor does the first step, which warms up
    allocator and kernels.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._seconds_per_token: float | None = None

    def count(self, tokens: int) -> float | None:
        """A step has ended; returns the speed, None after the first step."""
        now = self._clock()
        if self._since is not None:
            latest = (now - self._since) / tokens
            previous = self._seconds_per_token
            self._seconds_per_token = latest if previous is None else 0.9 * previous + 0.1 * latest
        self._since = now
        return 1.0 / self._seconds_per_token if self._seconds_per_token else None

    def restart(self) -> None:
        """Something else took time: measure from now on."""
        if self._since is not None:
            self._since = self._clock()
