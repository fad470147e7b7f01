"""split_full_model_into_mp_model, merge_mp_partitions and change_MspCkpt_ToMgt."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pangu_core.checkpoint.formats import npy
from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import folder, writing
from pangu_core.checkpoint.formats.megatron.names import PORT
from pangu_core.entry import process
from pangu_core.entry.convert import BY_HAND
from pangu_core.entry.progress import progress
from pangu_core.errors import ConfigError
from pangu_core.legacy.flags import Command
from pangu_core.legacy.parsing import Options, parse
from pangu_core.legacy.weights import check_sizes, open_weights
from pangu_core.messages import Termination

logger = logging.getLogger(__name__)


def split(arguments: Sequence[str]) -> int:
    """Cut ``--load`` into ``--num-mp-model`` files in ``--mp-model-save``."""

    def work(options: Options) -> Termination:
        source = Path(options.require("load", "names the whole model"))
        target = Path(options.require("mp_model_save", "says where the files go"))
        weights = open_weights(source, options)
        return _write("split", weights, target, options, ranks=options["num_mp_model"])

    return _run("split", "split_full_model_into_mp_model", arguments, work)


def merge(arguments: Sequence[str]) -> int:
    """Join the files of ``--load`` into one in ``<load>/merged``."""

    def work(options: Options) -> Termination:
        source = Path(options.require("load", "names the folder of the model's parts"))
        _check_ranks(source, options["mp_model_parallel_size"])
        weights = open_weights(source, options)
        return _write("merge", weights, source / "merged", options, ranks=1)

    return _run("merge", "merge_mp_partitions", arguments, work)


def convert(arguments: Sequence[str]) -> int:
    """Bring the original's npy folder into ``<folder>/merged``."""

    def work(options: Options) -> Termination:
        source = Path(options.require("npy_ckpt_path", "names the folder of npy files"))
        request = Request(
            run=BY_HAND,
            num_heads=options["num_attention_heads"],
            dtype="fp16" if options["fp16"] else None,
        )
        weights = npy.read(source, request)
        check_sizes(source, options, weights.header.model)
        return _write("convert", weights, source / "merged", options, ranks=1)

    return _run("convert", "change_MspCkpt_ToMgt", arguments, work)


def _run(
    command: Command,
    script: str,
    arguments: Sequence[str],
    work: Callable[[Options], Termination],
) -> int:
    return process.run(script, lambda: work(parse(command, script, arguments)))


def _write(
    title: str, weights: Weights, target: Path, options: Options, *, ranks: int
) -> Termination:
    """Add an iteration to a folder of the port's, as the original does."""
    target.mkdir(parents=True, exist_ok=True)
    # A whole model to be cut and tuned, not a training to go on with: no samples are behind it.
    header = replace(weights.header, samples=0)
    cut = writing.Cut(ranks, options["make_vocab_size_divisible_by"])
    with progress(title) as report:
        writing.add_iteration(
            replace(weights, header=header), target, dialect=PORT, cut=cut, report=report
        )
    logger.info("written: %s", target)
    return Termination(code=0, output=str(target))


def _check_ranks(source: Path, said: int | None) -> None:
    found = len(folder.find(source).files)
    if said is not None and said != found:
        raise ConfigError(
            "--mp-model-parallel-size",
            seen=said,
            rule=f"{source} holds {found} mp_rank folders",
            fix=f"write {found}, or leave it out",
        )
