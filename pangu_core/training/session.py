"""Everything one rank trains with, built once: model, optimizer, data, checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import torch

from pangu_core.checkpoint import setbacks
from pangu_core.checkpoint.agreement import together
from pangu_core.checkpoint.manifest import Header, Layout
from pangu_core.checkpoint.reader import Checkpoint, unseen
from pangu_core.checkpoint.saver import Request, Saved, Saver
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.store import Store, find_checkpoint, load_newest
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.data.vocabulary import find_vocabulary
from pangu_core.dist import Topology, gather_over_world
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.model.compiling import compile_layers
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.training import optimizer as optimizing
from pangu_core.training import state
from pangu_core.training.copies import Copies
from pangu_core.training.feed import Feed
from pangu_core.training.loss_scale import LossScale
from pangu_core.training.plan import Plan, settle
from pangu_core.training.sharding import shard
from pangu_core.training.state import Position
from pangu_core.training.step import Replica
from pangu_core.workspace import RunPaths, resolve, workspace_root

COMPUTE_DTYPES: Final = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
# Key of the token files' fingerprint among a checkpoint's training settings.
TOKENS: Final = "tokens"


@dataclass(frozen=True)
class Resumed:
    """The checkpoint from which training goes on."""

    checkpoint: Saved
    is_final: bool
    validation_loss: float | None


@dataclass(frozen=True)
class Session:
    """The parts of one rank's training."""

    config: TrainConfig
    place: Topology
    plan: Plan
    replica: Replica
    feed: Feed
    store: Store
    copies: Copies
    vocabulary: Path

    @classmethod
    def open(
        cls, config: TrainConfig, place: Topology, sign_of_life: Callable[[], None] = unseen
    ) -> Self:
        """Build all parts; weights are not loaded yet.

        A lost workspace gets its newest checkpoint back from the copies elsewhere, if there are
        any; ``sign_of_life`` is called as bytes come.

        Raises:
            ConfigError: the settings do not fit the model, or a file is missing.
            DataError: the token files cannot be used.
            CheckpointError: there are copies elsewhere, but none that can be trusted.
            RemoteError: they could not be fetched.
        """
        paths = RunPaths(config.run.name)
        store = Store(resolve(paths.checkpoints), fence=resolve(paths.root))
        gather = partial(gather_over_world, place=place)
        copies = Copies(config, store, gather=gather, rank=place.rank)
        copies.bring_back(sign_of_life, only_if_lost=True)
        sizes = _model_config(config)
        plan = settle(config, sizes, _resolved_earlier(store))
        feed = Feed.open(resolve(config.token_files), config.data, plan, config.train.seed)
        model = PanguModel(sizes, _build(config, place)).to(place.device)
        if config.train.compile:
            compile_layers(model, place.device)
        parameters = shard(model, place)
        optimizer = optimizing.build(parameters, config.train.optimizer)
        return cls(
            config=config,
            place=place,
            plan=plan,
            replica=Replica(model, parameters, optimizer, place),
            feed=feed,
            store=store,
            copies=copies,
            vocabulary=find_vocabulary(config.tokenizer and resolve(config.tokenizer)),
        )

    @property
    def model_config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.replica.model.config

    def load(self, sign_of_life: Callable[[], None] = unseen) -> tuple[Position, Resumed | None]:
        """The newest checkpoint that can be trusted, else the weights to start from.

        If none in the workspace can be trusted, the newest of the copies elsewhere is fetched.

        Returns where training stands, and the checkpoint if there is one. ``sign_of_life`` is
        called as tensors arrive.

        Raises:
            CheckpointError: there are checkpoints, but none that can be trusted; or training from
                this one failed too often.
            WorkspaceError: another run or a newer attempt owns the folder.
        """
        if self.place.is_first:
            self.store.claim(self.config.run)
        restore = partial(self._restore, sign_of_life)
        try:
            found = load_newest(self.store, restore, gather=self._gather, rank=self.place.rank)
        except CheckpointError:
            if not self.copies.bring_back(sign_of_life):
                raise
            found = load_newest(self.store, restore, gather=self._gather, rank=self.place.rank)
        self.copies.start()
        if found is None:
            position, resumed = Position(), None
            self._start(sign_of_life)
        else:
            position, resumed = found
            origin = self._origin(resumed)
            self._on_first(lambda: setbacks.refuse_loop(self.store.root, origin))
        optimizing.set_step(self.replica.optimizer, position.updates)
        return replace(position, loss_scale=self._loss_scale(position)), resumed

    def saver(self, sign_of_life: Callable[[], None]) -> Saver:
        """This rank's part in saving."""
        return Saver(
            self.store,
            gather=self._gather,
            rank=self.place.rank,
            staging=Staging(),
            after_commit=self.after_commit,
            sign_of_life=sign_of_life,
        )

    def request(self, position: Position, *, validation_loss: float | None) -> Request:
        """What to save besides the tensors."""
        header = Header(
            model=self.model_config,
            run=self.config.run,
            layout=Layout(tp=self.place.tp.size, dp=self.place.dp.size),
            samples=position.samples,
            skipped=position.skipped,
            loss_scale=position.loss_scale,
            validation_loss=validation_loss,
            training={
                "micro_batch_size": self.plan.micro_batch_size,
                "sequence_length": self.plan.sequence_length,
                TOKENS: self.feed.tokens,
                **self._settings(),
            },
            final=position.step >= self.plan.steps,
        )
        return Request(position.step, header, self.vocabulary)

    def pieces(self) -> list[Piece]:
        """What this rank saves of weights and moments."""
        return state.pieces(self.replica.parameters, self.replica.optimizer)

    def after_commit(self, saved: Saved) -> None:
        """Drop checkpoints that need not be kept, and have the others copied.

        On the first rank's background thread.
        """
        settings = self.config.train.checkpoint
        self.store.prune(
            settings.keep, keep_every=settings.keep_every, keep_best=settings.keep_best
        )
        self.copies.wake()

    def record_failure(self, resumed: Resumed, error: str) -> None:
        """Remember, with all ranks, that training from this checkpoint ended with an error."""
        origin, attempt = self._origin(resumed), self.config.run.attempt
        self._on_first(
            lambda: setbacks.record(self.store.root, origin, attempt=attempt, error=error)
        )

    def _restore(
        self, sign_of_life: Callable[[], None], checkpoint: Checkpoint
    ) -> tuple[Position, Resumed]:
        self._check_story(checkpoint)
        position = state.restore(
            checkpoint,
            self.replica.parameters,
            self.replica.optimizer,
            self.model_config,
            sign_of_life=sign_of_life,
        )
        manifest = checkpoint.manifest
        saved = Saved(checkpoint.folder, checkpoint.manifest_sha256)
        return position, Resumed(saved, manifest.final, manifest.validation_loss)

    def _start(self, sign_of_life: Callable[[], None]) -> None:
        """Weights of the first step: those to start from, or fresh ones."""
        parameters, sizes = self.replica.parameters, self.model_config
        if self.config.init_from:
            source = Checkpoint.open(find_checkpoint(resolve(self.config.init_from)))
            state.restore_weights(source, parameters, sizes, sign_of_life=sign_of_life)
        else:
            state.start_fresh(parameters, sizes, self.config.train.seed)

    def _settings(self) -> dict[str, Any]:
        return {"data": self.config.data.dump(), "train": self.config.train.dump()}

    def _origin(self, resumed: Resumed) -> setbacks.Origin:
        checkpoint = resumed.checkpoint
        return setbacks.Origin.of(
            checkpoint.folder, checkpoint.manifest_sha256, settings=self._settings()
        )

    def _on_first(self, work: Callable[[], None]) -> None:
        """Work of the first rank, whose errors are raised on all."""
        together(lambda: work() if self.place.is_first else None, self._gather)

    def _loss_scale(self, position: Position) -> LossScale | None:
        """The stored one; a fresh one for what was trained in another precision so far."""
        train = self.config.train
        if train.precision != "fp16":
            return None
        return position.loss_scale or LossScale.start(train.loss_scale)

    def _check_story(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on with other text, or to a step that lies behind."""
        manifest = checkpoint.manifest
        trained_on = manifest.training.get(TOKENS, self.feed.tokens)
        if trained_on != self.feed.tokens:
            raise ConfigError(
                f"token files {self.config.token_files}",
                seen="other text than this run was trained on",
                rule="a run goes on with the text that it began with",
                fix="give the job another name, or move the old run's folder away",
            )
        if manifest.step > self.plan.steps:
            raise ConfigError(
                "train.steps",
                seen=self.plan.steps,
                rule=f"must not be below the step that the run is at ({manifest.step})",
                fix="raise it, or give the job another name",
            )

    def _gather(self, value: object) -> list[object]:
        return gather_over_world(value, self.place)


def relative_to_workspace(path: Path) -> str:
    """A path as configs and messages write it."""
    return path.relative_to(workspace_root()).as_posix()


def _resolved_earlier(store: Store) -> int | None:
    """The micro-batch size that this run's newest checkpoint was trained with."""
    newest = next(store.candidates(), None)
    if newest is None:
        return None
    size: int | None = Checkpoint.open(newest).manifest.training.get("micro_batch_size")
    return size


def _model_config(config: TrainConfig) -> ModelConfig:
    """Sizes from the config, else from the checkpoint to start from."""
    if config.model is not None:
        return config.model
    if config.init_from is None:
        raise ConfigError(
            "model",
            seen="neither sizes nor weights",
            rule="a network needs sizes",
            fix="name a preset, give sizes, or name weights to start from",
        )
    return Checkpoint.open(find_checkpoint(resolve(config.init_from))).manifest.model


def _build(config: TrainConfig, place: Topology) -> Build:
    train = config.train
    compute = COMPUTE_DTYPES[train.precision]
    return Build(
        axis=place.tp,
        parameter_dtype=torch.promote_types(compute, torch.float32),
        compute_dtype=compute,
        attention_dropout=train.attention_dropout,
        hidden_dropout=train.hidden_dropout,
        recompute=train.recompute,
        sequence_parallel=train.sequence_parallel,
    )
