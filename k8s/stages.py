"""From a job to the stages it consists of, and to what each stage's pods read."""

import glob
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from k8s import names
from k8s.blocks import Remote, is_in_a_store
from k8s.spec import PanguJob
from pangu_core.config.base import Settings
from pangu_core.config.stages import (
    ConvertConfig,
    FetchConfig,
    FetchSource,
    PreprocessConfig,
    ReshardConfig,
    RunIdentity,
    TrainConfig,
)
from pangu_core.errors import ConfigError
from pangu_core.remote.address import has_wildcards, is_remote, split
from pangu_core.workspace import RunPaths


@dataclass(frozen=True)
class Stage:
    """One step of a job: what its pods are told, given the attempt."""

    name: str
    job: PanguJob

    def config(self, attempt: int) -> Settings:
        """The settings that the stage's pods read from their config file."""
        job = self.job
        run = RunIdentity(
            name=job.run_name, uid=job.uid, attempt=attempt, resume_from=job.spec.resume_from
        )
        return _CONFIGS[self.name](job, run)

    @property
    def store(self) -> Remote | None:
        """How its pods reach a store elsewhere, if the job file says it."""
        spec = self.job.spec
        blocks: dict[str, tuple[Remote | None, ...]] = {
            "fetch": (spec.model, spec.data),
            "export": (spec.export,),
        }
        used = [b for b in blocks.get(self.name, ()) if b and is_in_a_store(b.elsewhere)]
        return used[0] if used else None

    @property
    def is_training(self) -> bool:
        """Whether many pods run it together (a PyTorchJob), not one (a Job)."""
        return self.name == names.TRAIN


def plan(job: PanguJob) -> tuple[Stage, ...]:
    """The stages of a job in the order in which they run; they follow from the spec alone."""
    spec = job.spec
    wanted = {
        "fetch": bool(spec.model.elsewhere or spec.data.elsewhere),
        "convert": spec.model.from_ is not None,
        "split": spec.split.always,
        "preprocess": spec.data.token_files is None,
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


def _fetch(job: PanguJob, run: RunIdentity) -> FetchConfig:
    spec = job.spec
    sources = []
    for field, url in (("model.from", spec.model.elsewhere), ("data.input", spec.data.elsewhere)):
        if url:
            folders = field == "model.from"  # text is named file by file, or by a pattern
            target = _fetched(job, field)
            sources.append(FetchSource(field=field, url=url, target=target, folders=folders))
    return FetchConfig(run=run, sources=tuple(sources))


def _fetched(job: PanguJob, field: str) -> str:
    """Folder of what a field's address brings."""
    return f"{RunPaths(job.run_name).fetched}/{field.partition('.')[0]}"


def _convert(job: PanguJob, run: RunIdentity) -> ConvertConfig:
    source = job.spec.model.from_
    assert source is not None
    if is_remote(source):
        source = f"{_fetched(job, 'model.from')}/{split(source)[1]}"
    return ConvertConfig(
        run=run,
        source=source,
        target=RunPaths(job.run_name).converted,
        model=job.spec.model.sizes,
    )


def _split(job: PanguJob, run: RunIdentity) -> ReshardConfig:
    paths = RunPaths(job.run_name)
    return ReshardConfig(
        run=run,
        source=paths.converted,
        target=paths.split,
        tensor_parallel=job.spec.split.tensor_parallel or job.spec.train.tensor_parallel,
    )


def _preprocess(job: PanguJob, run: RunIdentity) -> PreprocessConfig:
    data = job.spec.data
    assert isinstance(data.input, str)
    assert data.format in ("text", "jsonl")
    pattern = data.input
    if is_remote(pattern):
        below = split(pattern)[1]
        below = below if has_wildcards(pattern) else glob.escape(below)
        pattern = f"{_fetched(job, 'data.input')}/{below}"
    return PreprocessConfig(
        run=run,
        input=pattern,
        format=data.format,
        json_key=data.json_key,
        split_sentences=data.split_sentences,
        tokenizer=job.spec.tokenizer,
        append_eod=data.append_eod,
        output=RunPaths(job.run_name).tokens,
        workers=data.workers,
    )


def _train(job: PanguJob, run: RunIdentity) -> TrainConfig:
    paths, spec = RunPaths(job.run_name), job.spec
    start = paths.split if spec.split.always else paths.converted
    return TrainConfig(
        run=run,
        model=spec.model.sizes,
        init_from=start if spec.model.from_ is not None else None,
        tokenizer=spec.tokenizer,
        token_files=spec.data.token_files or paths.tokens,
        data=spec.data.settings,
        train=spec.train,
    )


def _merge(job: PanguJob, run: RunIdentity) -> ReshardConfig:
    paths = RunPaths(job.run_name)
    return ReshardConfig(run=run, source=paths.checkpoints, target=paths.model)


def _export(job: PanguJob, run: RunIdentity) -> ConvertConfig:
    paths, export = RunPaths(job.run_name), job.spec.export
    assert export is not None
    return ConvertConfig(
        run=run,
        source=paths.model,
        target=paths.export if export.elsewhere else export.to or paths.export,
        copy_to=export.elsewhere,
        from_format="pangu",
        to_format=export.format,
        dtype=export.dtype,
    )


_CONFIGS: Final[dict[str, Callable[[PanguJob, RunIdentity], Settings]]] = {
    "fetch": _fetch,
    "convert": _convert,
    "split": _split,
    "preprocess": _preprocess,
    "train": _train,
    "merge": _merge,
    "export": _export,
}
