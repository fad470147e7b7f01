"""Gathers what a report says about a run: its history, its model, and what counting would reach."""

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pangu_core.checkpoint.manifest import Manifest, read_manifest
from pangu_core.checkpoint.store import Store
from pangu_core.config.stages import DataSettings
from pangu_core.config.train import TrainSettings
from pangu_core.data.token_files import TokenFile, sibling
from pangu_core.errors import DataError
from pangu_core.loading import load
from pangu_core.reporting.history import History, read_events, read_history
from pangu_core.reporting.ngrams import HeldOut, NgramLosses, held_out_losses
from pangu_core.workspace import RunPaths


@dataclass(frozen=True)
class Findings:
    """What is known about a run."""

    name: str
    history: History
    manifest: Manifest | None  # of the newest checkpoint
    ngrams: NgramLosses | None

    @property
    def held_out_loss(self) -> float | None:
        """The last loss on held-out text, in nats a token."""
        evaluations = self.history.evaluations
        return evaluations[-1].loss if evaluations else None

    @property
    def perplexity(self) -> float | None:
        """E to the power of the held-out loss."""
        return None if self.held_out_loss is None else math.exp(self.held_out_loss)


def gather(folder: Path) -> Findings:
    """Read a run's folder.

    Raises:
        DataError: it holds no metrics, or its token files are damaged.
    """
    paths = RunPaths(folder.resolve().name)
    metrics = _inside(folder, paths, paths.metrics)
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(
            str(metrics),
            seen=error.strerror or "unreadable",
            rule="a run that has trained has a metrics file",
            fix="name a run's folder, runs/<name> in the workspace",
        ) from error
    newest = next(Store(_inside(folder, paths, paths.checkpoints)).candidates(), None)
    manifest = read_manifest(newest)[0] if newest else None
    tokens = _inside(folder, paths, paths.tokens)
    has_tokens = sibling(tokens, ".idx").is_file()
    return Findings(
        name=paths.name,
        history=read_history(read_events(lines)),
        manifest=manifest,
        ngrams=_count(tokens, manifest) if manifest and has_tokens else None,
    )


def _count(tokens: Path, manifest: Manifest) -> NgramLosses | None:
    """N-gram losses on what the run evaluates on; None where the trainer did not say what."""
    said = manifest.training
    if not {"data", "train", "sequence_length"} <= said.keys():
        return None
    train = load(TrainSettings, said["train"], "training.train")
    held_out = HeldOut(
        shares=load(DataSettings, said["data"], "training.data").shares,
        sequence_length=int(said["sequence_length"]),
        num_samples=train.evaluate.batches * train.global_batch_size,
    )
    return held_out_losses(TokenFile.open(tokens), held_out, manifest.model.vocab_size)


def _inside(folder: Path, paths: RunPaths, path: str) -> Path:
    """A path of the run in its folder, which may have been copied out of its workspace."""
    return folder / PurePosixPath(path).relative_to(paths.root)
