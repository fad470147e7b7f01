"""From a job to the stages it consists of, and to what each stage's pods read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from k8s import names
from k8s.spec import PanguJob
from pangu_core.config.base import Settings
from pangu_core.config.stages import (
    ConvertConfig,
    PreprocessConfig,
    ReshardConfig,
    RunIdentity,
    TrainConfig,
)
from pangu_core.errors import ConfigError
from pangu_core.workspace import RunPaths


@dataclass(frozen=True)
class Stage:
    """One step of a job: what its pods are told, given the attempt."""

    name: str
    job: PanguJob

    def config(self, attempt: int) -> Settings:
        """The settings that the stage's pods read from their config file."""
        run = RunIdentity(name=self.job.name, uid=self.job.uid, attempt=attempt)
        return _CONFIGS[self.name](self.job, run)

    @property
    def is_training(self) -> bool:
        """Whether many pods run it together (a PyTorchJob), not one (a Job)."""
        return self.name == names.TRAIN


def plan(job: PanguJob) -> tuple[Stage, ...]:
    """The stages of a job in the order in which they run; they follow from the spec alone."""
    spec = job.spec
    wanted = {
        "convert": spec.model.from_ is not None,
        "split": spec.split.always,
        "preprocess": True,
        "train": True,
        "merge": True,
        "export": spec.export is not None,
    }
    return tuple(Stage(name, job) for name in names.STAGES if wanted.get(name, False))


def find(job: PanguJob, name: str) -> Stage:
    """One stage of a job by its name.

    Raises:
        ConfigError: the job has no such stage.
    """
    stages = {stage.name: stage for stage in plan(job)}
    if name not in stages:
        raise ConfigError(
            "stage",
            seen=name,
            rule=f"is no stage of job {job.name}",
            fix=f"choose one of {', '.join(stages)}",
        )
    return stages[name]


def _convert(job: PanguJob, run: RunIdentity) -> ConvertConfig:
    assert job.spec.model.from_ is not None
    return ConvertConfig(
        run=run,
        source=job.spec.model.from_,
        target=RunPaths(job.name).converted,
        model=job.spec.model.sizes,
    )


def _split(job: PanguJob, run: RunIdentity) -> ReshardConfig:
    paths = RunPaths(job.name)
    return ReshardConfig(
        run=run,
        source=paths.converted,
        target=paths.split,
        tensor_parallel=job.spec.split.tensor_parallel or job.spec.train.tensor_parallel,
    )


def _preprocess(job: PanguJob, run: RunIdentity) -> PreprocessConfig:
    data = job.spec.data
    assert isinstance(data.input, str)
    assert data.format != "chat"
    return PreprocessConfig(
        run=run,
        input=data.input,
        format=data.format,
        json_key=data.json_key,
        split_sentences=data.split_sentences,
        tokenizer=job.spec.tokenizer,
        append_eod=data.append_eod,
        output=RunPaths(job.name).tokens,
        workers=data.workers,
    )


def _train(job: PanguJob, run: RunIdentity) -> TrainConfig:
    paths, spec = RunPaths(job.name), job.spec
    start = paths.split if spec.split.always else paths.converted
    return TrainConfig(
        run=run,
        model=spec.model.sizes,
        init_from=start if spec.model.from_ is not None else None,
        tokenizer=spec.tokenizer,
        token_files=paths.tokens,
        data=spec.data.settings,
        train=spec.train,
    )


def _merge(job: PanguJob, run: RunIdentity) -> ReshardConfig:
    paths = RunPaths(job.name)
    return ReshardConfig(run=run, source=paths.checkpoints, target=paths.model)


def _export(job: PanguJob, run: RunIdentity) -> ConvertConfig:
    paths, export = RunPaths(job.name), job.spec.export
    assert export is not None
    return ConvertConfig(
        run=run,
        source=paths.model,
        target=export.to or paths.export,
        from_format="pangu",
        to_format=export.format,
        dtype=export.dtype,
    )


_CONFIGS: Final[dict[str, Callable[[PanguJob, RunIdentity], Settings]]] = {
    "convert": _convert,
    "split": _split,
    "preprocess": _preprocess,
    "train": _train,
    "merge": _merge,
    "export": _export,
}
