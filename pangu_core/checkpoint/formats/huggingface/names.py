"""Names of parameters in a Hugging Face folder: the query layer is the last of the layers."""

import re
from typing import Final

from pangu_core.layout import LAYER_TABLE

PREFIX: Final = "transformer."
HEAD: Final = "lm_head.weight"
WORDS: Final = f"{PREFIX}wte.weight"
# Masks that earlier ports kept beside their weights.
_BUFFER: Final = re.compile(r"(?:.*\.)?attn\.(?:bias|masked_bias)")
_TOP: Final = {
    "word_embedding": "wte",
    "position_embedding": "wpe",
    "query_embedding": "wqe",
    "ln_f": "ln_f",
}
_LAYER: Final = {
    "ln1": "ln_1",
    "attention.query": "attn.q_proj",
    "attention.key": "attn.k_proj",
    "attention.value": "attn.v_proj",
    "attention.output": "attn.c_proj",
    "ln2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def name_of(parameter: str, num_layers: int) -> str:
    """The name under which a parameter is written."""
    module, _, kind = parameter.rpartition(".")
    if module in _TOP:
        return f"{PREFIX}{_TOP[module]}.{kind}"
    rest = next(rest for rest in LAYER_TABLE if parameter.endswith(f".{rest}"))
    owner = parameter.removesuffix(f".{rest}")
    index = owner.removeprefix("layers.") if owner != "query_layer" else str(num_layers - 1)
    return f"{PREFIX}h.{index}.{_LAYER[rest.rpartition('.')[0]]}.{kind}"


def spellings(parameter: str, num_layers: int) -> tuple[str, ...]:
    """Every name under which a parameter is found, the written one first.

    A file of the network without its head lacks the prefix, and the first of the earlier ports
    had another name for the attention's output.
    """
    name = name_of(parameter, num_layers)
    early = name.replace("attn.c_proj", "attn.out_proj")
    names = (name, early, name.removeprefix(PREFIX), early.removeprefix(PREFIX))
    return tuple(dict.fromkeys(names))


def is_buffer(name: str) -> bool:
    """Whether a tensor is no weight."""
    return _BUFFER.fullmatch(name) is not None
