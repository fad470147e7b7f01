"""The folder that a legacy training works in: its own checkpoints, and links to your files.

It is the trainer's workspace, lies in ``--save`` and is removed at the end: what remains are the
port's folders beside it.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.formats import pangu
from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import port
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, key_of
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.store import Store
from pangu_core.checkpoint.stream import Incoming, Target, write_stream
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.data.token_files import sibling
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.legacy import vocabulary
from pangu_core.legacy.parsing import Options
from pangu_core.legacy.train_settings import (
    LOADED,
    RUN_NAME,
    TOKENS,
    VOCABULARY,
    World,
    fresh_model,
    global_batch_size,
)
from pangu_core.legacy.weights import open_weights, with_activation
from pangu_core.workspace import RunPaths

FOLDER: Final = ".pangu-work"
RUN: Final = RunIdentity(name=RUN_NAME, uid=RUN_NAME)
PATHS: Final = RunPaths(RUN_NAME)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What the first rank found and made; the others are told."""

    folder: str
    model: ModelConfig
    is_finetuning: bool  # from weights alone, at step 0


def prepare(options: Options, world: World) -> Prepared:
    """Make the work folder anew, with the weights to start or to go on from.

    Raises:
        ConfigError: a flag is missing.
        CheckpointError: the weights cannot be read; they are never made up instead.
    """
    root = _new_folder(options["save"])
    prefix = Path(options.require("data_path", "names the token files")).absolute()
    words = vocabulary.locate(options["vocab_file"])
    for ending in (".bin", ".idx", ".mask.bin"):
        if sibling(prefix, ending).is_file() or ending != ".mask.bin":
            _link(sibling(root / TOKENS, ending), sibling(prefix, ending))
    _link(root / VOCABULARY, words.absolute())
    if options["tensorboard_dir"]:
        board = Path(options["tensorboard_dir"]).absolute()
        board.mkdir(parents=True, exist_ok=True)
        _link(root / PATHS.tensorboard, board)
    if options["save"]:
        _link(root / PATHS.metrics, Path(options["save"]).absolute() / "metrics.jsonl")
    if options["load"] is None or _starts_here(options):
        model = fresh_model(options, Tokenizer(words).vocab_size)
        return Prepared(str(root), model, is_finetuning=False)
    model = _bring_in(Path(options["load"]), root, options, world)
    return Prepared(str(root), model, is_finetuning=options["finetune"])


def _new_folder(save: str | None) -> Path:
    if save is None:
        return Path(tempfile.mkdtemp(prefix="pangu-legacy-"))
    root = Path(save).absolute() / FOLDER
    durable.remove_folder(root)
    root.mkdir(parents=True)
    return root


def _starts_here(options: Options) -> bool:
    """Whether --load names the folder of --save before the first one: Megatron's fresh start."""
    source = Path(options["load"])
    is_same = options["save"] and Path(options["save"]).absolute() == source.absolute()
    if not is_same or options["finetune"] or port.detect(source):
        return False
    logger.info("%s holds no checkpoint yet: training starts with fresh weights", source)
    return True


def _bring_in(source: Path, root: Path, options: Options, world: World) -> ModelConfig:
    """Write the loaded weights where the trainer looks for them."""
    has_moments = not (options["finetune"] or options["no_load_optim"])
    weights = with_activation(open_weights(source, options, optimizer=has_moments), options)
    if options["finetune"]:
        request = Request(run=RUN)
        pangu.write(weights, root / LOADED, request=request, replace_old=False, report=silent)
        return weights.header.model
    samples = weights.header.samples or weights.step * global_batch_size(options, world)
    header = replace(weights.header, run=RUN, samples=samples)
    store = Store(root / PATHS.checkpoints)
    store.claim(RUN)
    tensors = weights.tensors if has_moments else {**weights.tensors, **_no_moments(weights)}
    write_stream(Target(store.root / f"step-{weights.step:08d}", header, weights.step), tensors)
    return weights.header.model


def _no_moments(weights: Weights) -> Mapping[str, Incoming]:
    """Moments of an optimizer that has seen nothing."""
    return {
        key_of(group, key.removeprefix(f"{MODEL}/")): Incoming(
            tensor.shape, "fp32", partial(torch.zeros, tensor.shape)
        )
        for group in MOMENTS
        for key, tensor in weights.tensors.items()
    }


def _link(name: Path, target: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(target)
