"""What split, merge, convert and export share: a folder read, a checkpoint folder written."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from pangu_core.checkpoint.formats import pangu
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.checkpoint.stream import reshard
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.config.stages import ConvertConfig, ReshardConfig
from pangu_core.entry.marker import fingerprint, run_once
from pangu_core.entry.process import read_config
from pangu_core.entry.progress import progress
from pangu_core.messages import Termination
from pangu_core.workspace import resolve

dtype_option = click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Cast the weights."
)
source_argument = click.argument("source", required=False, type=click.Path(path_type=Path))
target_argument = click.argument("target", required=False, type=click.Path(path_type=Path))


def rewrite(
    title: str,
    source: Path,
    target: Path,
    *,
    tp: int = 1,
    optimizer: bool = False,
    dtype: DTypeName | None = None,
    replace_old: bool = False,
) -> str:
    """Write a checkpoint again with a progress bar; returns the SHA-256 of its manifest."""
    with progress(title) as report:
        return reshard(
            Checkpoint.open(find_checkpoint(source)),
            target,
            tp=tp,
            optimizer=optimizer,
            dtype=dtype,
            replace_old=replace_old,
            report=report,
        )


def reshard_stage(stage: str) -> Termination:
    """The pod's work of ``split`` and ``merge``: everything is in the config file."""
    config = read_config(ReshardConfig)

    def write(source: Path, target: Path) -> str:
        return rewrite(
            stage,
            source,
            target,
            tp=config.tensor_parallel,
            optimizer=config.optimizer,
            dtype=config.dtype,
            replace_old=True,
        )

    return run_stage(stage, config, write, inputs=pangu.inputs, is_written=pangu.is_written)


def run_stage(
    stage: str,
    config: ReshardConfig | ConvertConfig,
    write: Callable[[Path, Path], str],
    *,
    inputs: Callable[[Path], Iterable[Path]],
    is_written: Callable[[Path], bool],
) -> Termination:
    """Call ``write(source, target)`` unless the same was done before from the same ``inputs``.

    The target belongs to the run, so an older result there is replaced as a whole.
    """
    source, target = resolve(config.source), resolve(config.target)

    def work() -> Termination:
        digest = write(source, target)
        return Termination(code=0, output=config.target, manifest_sha256=digest)

    return run_once(
        stage,
        config.run,
        fingerprint(config, inputs(source)),
        work,
        still_there=lambda: is_written(target),
    )


def require_both(source: Path | None, target: Path | None) -> tuple[Path, Path]:
    """Source and target of a direct call.

    Raises:
        UsageError: one is missing.
    """
    if source is None or target is None:
        raise click.UsageError("name SOURCE and TARGET, or neither to read the config file")
    return source, target
