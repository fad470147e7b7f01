"""config.json of a Hugging Face folder: the sizes of the network, in both directions."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.mindspore.tensors import PUBLISHED_ROWS
from pangu_core.checkpoint.tensor_file import DTYPES
from pangu_core.config.model import Activation, ModelConfig
from pangu_core.errors import CheckpointError, ConfigError

FILE_NAME: Final = "config.json"
MODEL_TYPE: Final = "gpt_pangu"
# "pangu" stands in the files of one of the earlier ports, whose code says gpt_pangu.
_MODEL_TYPES: Final = (MODEL_TYPE, "pangu")
# What we add, and transformers keeps: our own files say how their weights are meant.
OWN_KEY: Final = "pangu_finetune"
_WRITTEN: Final[dict[Activation, str]] = {
    "gelu_tanh": "gelu_pytorch_tanh",
    "gelu_erf": "gelu",
    "fast_gelu": "quick_gelu",  # the same function: x sigmoid(1.702 x)
}
_READ: Final[dict[str, Activation]] = {
    **{word: name for name, word in _WRITTEN.items()},
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_EARLIER_WORD: Final = "gelu"
_COMPARED: Final = ("num_layers", "hidden_size", "num_heads", "sequence_length")
logger = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class _Own(BaseModel):
    step: Count = 0
    samples: Count = 0


class Description(BaseModel):
    """The part of config.json that matters, under the names of transformers or earlier ports."""

    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)

    vocab_size: Size
    num_layers: Size = Field(validation_alias=AliasChoices("num_hidden_layers", "num_layers"))
    hidden_size: Size
    num_heads: Size = Field(validation_alias=AliasChoices("num_attention_heads", "num_heads"))
    sequence_length: Size = Field(1024, validation_alias="max_position_embeddings")
    intermediate_size: Size | None = None
    activation: str = Field(
        _EARLIER_WORD,
        validation_alias=AliasChoices("activation_function", "activation", "hidden_act"),
    )
    layer_norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    init_std: Annotated[float, Field(gt=0)] = Field(0.02, validation_alias="initializer_range")
    own: _Own | None = Field(None, validation_alias=OWN_KEY)

    def model(self, path: Path, rows: int, request: Request) -> ModelConfig:
        """The network's sizes; ``rows`` are those of the word table, padding included.

        Raises:
            ConfigError: another network than the one asked for.
            CheckpointError: another network than this one.
        """
        if self.intermediate_size not in (None, 4 * self.hidden_size):
            rule = f"must be four times hidden_size ({self.hidden_size})"
            raise _refusal(path, "intermediate_size", self.intermediate_size, rule)
        if self.hidden_size % self.num_heads:
            rule = f"must divide hidden_size ({self.hidden_size})"
            raise _refusal(path, "num_heads", self.num_heads, rule)
        asked = request.model
        wanted = self.vocab_size if self.own else min(self.vocab_size, PUBLISHED_ROWS)
        vocab_size = asked.vocab_size if asked else wanted
        if vocab_size > rows:
            raise _refusal(path, "rows of the word table", rows, f"must be at least {vocab_size}")
        for name in _COMPARED if asked else ():
            if getattr(self, name) != getattr(asked, name):
                raise _other_size(path, name, getattr(self, name), getattr(asked, name))
        return ModelConfig(
            vocab_size=vocab_size,
            activation=self._activation(path, asked),
            **{name: getattr(self, name) for name in _COMPARED},
            layer_norm_epsilon=self.layer_norm_epsilon,
            init_std=self.init_std,
        )

    def _activation(self, path: Path, asked: ModelConfig | None) -> Activation:
        """The word of the file, but for "gelu" in files of earlier ports.

        Those say "gelu", and so run the exact one, over the released weights, which were trained
        with the tanh form; the released conversions cannot be told from what was tuned with it.
        """
        if self.activation not in _READ:
            raise _refusal(
                path, "activation", self.activation, f"must be one of {', '.join(_READ)}"
            )
        if self.own or self.activation != _EARLIER_WORD:
            return _READ[self.activation]
        chosen: Activation = asked.activation if asked else "gelu_tanh"
        logger.info(
            "%s says gelu, as all conversions of the released weights do: taken as %s unless "
            "--activation says otherwise (gelu_erf for weights tuned with the exact form)",
            path,
            chosen,
        )
        return chosen


def looks_like(folder: Path) -> bool:
    """Whether a folder's config.json is one of PanGu-alpha's."""
    try:
        values = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") in _MODEL_TYPES


def read(folder: Path) -> Description:
    """What config.json says.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / FILE_NAME
    try:
        return Description.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _refusal(path, "file", str(error.strerror), "must be readable") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        seen = f"{problem['input']!r:.60}"
        raise _refusal(path, where, seen, problem["msg"].lower()) from error


def configuration(weights: Weights) -> dict[str, Any]:
    """config.json for these weights."""
    model, header = weights.header.model, weights.header
    return {
        "architectures": ["GPTPanguForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_gptpangu.GPTPanguConfig",
            "AutoModel": "modeling_gptpangu.GPTPanguModel",
            "AutoModelForCausalLM": "modeling_gptpangu.GPTPanguForCausalLM",
        },
        "model_type": MODEL_TYPE,
        "activation_function": _WRITTEN[model.activation],
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.sequence_length,
        "hidden_size": model.hidden_size,
        "intermediate_size": 4 * model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "initializer_range": model.init_std,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "use_cache": True,
        "tie_word_embeddings": True,
        **_special_ids(),
        "dtype": str(DTYPES[header.dtype].torch).removeprefix("torch."),
        OWN_KEY: {"step": weights.step, "samples": header.samples},
    }


def generation() -> dict[str, Any]:
    """generation_config.json."""
    return {"do_sample": False, **_special_ids()}


def tokenizer() -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "GPTPanguTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_gptpangu.GPTPanguTokenizer", None]},
        "bos_token": "<eot>",
        "eos_token": "<eot>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "left",
    }


def _special_ids() -> dict[str, int]:
    return {"bos_token_id": 9, "eos_token_id": 9, "pad_token_id": 6}


def _other_size(path: Path, name: str, seen: Any, wanted: Any) -> ConfigError:
    written = f"model.{ModelConfig.model_fields[name].alias}"
    return ConfigError(
        f"{path}: {written}",
        seen=seen,
        rule=f"must equal the configured {wanted}",
        fix=f"set {written} to {seen}, or name other weights",
    )


def _refusal(path: Path, what: str, seen: Any, rule: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}", seen=seen, rule=rule, fix="copy the folder again, or name other weights"
    )
