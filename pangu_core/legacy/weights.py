"""The weights that ``--load`` names, opened for the original commands."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from pangu_core.checkpoint.formats import pangu
from pangu_core.checkpoint.formats.form import Reader, Request, Weights
from pangu_core.checkpoint.formats.megatron import port
from pangu_core.checkpoint.manifest import MODEL, key_of
from pangu_core.config.model import ModelConfig
from pangu_core.entry.convert import BY_HAND
from pangu_core.errors import CheckpointError
from pangu_core.generation.language_model import LanguageModel
from pangu_core.legacy.parsing import Options
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import local_parts

# Flag -> the size that it gives; the port does not count the query layer as a layer.
_SIZES: Final = {
    "num_layers": ("num_layers", 1),
    "hidden_size": ("hidden_size", 0),
    "num_attention_heads": ("num_heads", 0),
    "max_position_embeddings": ("sequence_length", 0),
}


def open_weights(source: Path, options: Options, *, optimizer: bool = False) -> Weights:
    """The weights of a folder of the port's, of Megatron-core's, or of ours.

    Raises:
        ConfigError: nothing says how many heads there are.
        CheckpointError: no tracker file, damaged files, or other sizes than the flags say.
    """
    form: Reader = pangu if pangu.detect(source) else port
    request = Request(run=BY_HAND, num_heads=options["num_attention_heads"], optimizer=optimizer)
    weights = form.read(source, request)
    check_sizes(source, options, weights.header.model)
    return weights


def check_sizes(source: Path, options: Options, model: ModelConfig) -> None:
    """Compare the flags that were given with the file.

    Raises:
        CheckpointError: they differ.
    """
    for flag, (name, surplus) in _SIZES.items():
        asked, found = options[flag], getattr(model, name) - surplus
        if asked is not None and asked != found:
            text = f"--{flag.replace('_', '-')}"
            raise CheckpointError(
                str(source),
                seen=f"{text} {found}",
                rule=f"must be of the sizes that the flags give ({text} {asked})",
                fix=f"write {text} {found}, or leave it out: the file says it",
            )


def with_activation(weights: Weights, options: Options) -> Weights:
    """The same weights; the flags that ask for the tanh GELU are obeyed."""
    if not (options["openai_gelu"] or options["bias_gelu_fusion"]):
        return weights
    model = weights.header.model.model_copy(update={"activation": "gelu_tanh"})
    return replace(weights, header=replace(weights.header, model=model))


@torch.no_grad()
def language_model(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model in memory.

    Raises:
        CheckpointError: a tensor could not be read.
    """
    with device:
        network = PanguModel(
            weights.header.model, Build(parameter_dtype=dtype, compute_dtype=dtype)
        )
    for name, real, _ in local_parts(network):
        real.copy_(weights.tensors[key_of(MODEL, name)].read())
    return LanguageModel(network)
