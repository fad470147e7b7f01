"""The names and packing of the Megatron port and of Megatron-core, beside ours.

The port keeps Q, K and V apart, as we do. Megatron-core fuses them, head by head: rows
[heads, 3, head size], which is what its checkpoint versions from 2.0 on hold. It knows no query
layer: ours stands under ``decoder.query_layer.`` with the names of any other layer (its Q rows
read the query table, which no LayerNorm touches), and the table is
``embedding.query_embeddings.weight``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from pangu_core.layout import LAYER_TABLE, cut_dim, parameter_names

QUERY_LAYER: Final = "query_layer"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, and the parameters of ours in it: one, or Q, K and V."""

    paths: tuple[tuple[str, ...], ...]  # in the nested content; the first is written, all are read
    parameters: tuple[str, ...]

    @property
    def cut(self) -> int | None:
        """The dimension that model parallelism cuts."""
        return cut_dim(self.parameters[0])


@dataclass(frozen=True)
class Dialect:
    """How one of the two programs names and fuses parameters."""

    name: str
    tensors: Callable[[int], Iterator[StoredTensor]]  # of a number of layers, in file order


_PORT_TOP: Final = {
    "word_embedding.weight": ("embedding", "word_embeddings", "weight"),
    "position_embedding.weight": ("embedding", "position_embeddings", "weight"),
    "query_embedding.weight": ("topQueryEmbedding", "top_query_embeddings", "weight"),
}
_PORT_LAYER: Final = {
    "ln1": "input_layernorm",
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.output": "attention.dense",
    "ln2": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_CORE_TOP: Final = {
    "word_embedding.weight": "embedding.word_embeddings.weight",
    "position_embedding.weight": "embedding.position_embeddings.weight",
    "query_embedding.weight": "embedding.query_embeddings.weight",
    "ln_f.weight": "decoder.final_layernorm.weight",
    "ln_f.bias": "decoder.final_layernorm.bias",
}
# With Transformer Engine's fused modules first, then those of the local specification.
_CORE_LAYER: Final[dict[str, tuple[str, ...]]] = {
    "ln1.weight": ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
    "ln1.bias": ("self_attention.linear_qkv.layer_norm_bias", "input_layernorm.bias"),
    "attention.query.weight": ("self_attention.linear_qkv.weight",),
    "attention.query.bias": ("self_attention.linear_qkv.bias",),
    "attention.output.weight": ("self_attention.linear_proj.weight",),
    "attention.output.bias": ("self_attention.linear_proj.bias",),
    "ln2.weight": ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
    "ln2.bias": ("mlp.linear_fc1.layer_norm_bias", "pre_mlp_layernorm.bias"),
    "mlp.up.weight": ("mlp.linear_fc1.weight",),
    "mlp.up.bias": ("mlp.linear_fc1.bias",),
    "mlp.down.weight": ("mlp.linear_fc2.weight",),
    "mlp.down.bias": ("mlp.linear_fc2.bias",),
}


def port_tensors(num_layers: int) -> Iterator[StoredTensor]:
    """The port's tensors, in the order of its modules: ``final_layernorm`` comes last."""
    names = list(parameter_names(num_layers))
    final = [name for name in names if name.startswith("ln_f.")]
    for name in [name for name in names if name not in final] + final:
        yield StoredTensor((("language_model", *_port_path(name)),), (name,))


def core_tensors(num_layers: int) -> Iterator[StoredTensor]:
    """Megatron-core's tensors, QKV fused."""
    for name in parameter_names(num_layers):
        if name in _CORE_TOP:
            yield StoredTensor(((_CORE_TOP[name],),), (name,))
            continue
        layer, rest = _split(name)
        if rest in _CORE_LAYER:
            prefix = f"decoder.{layer}."
            fused = tuple(name.replace(".query.", part) for part in (".query.", ".key.", ".value."))
            is_fused = ".attention.query." in name
            paths = tuple((prefix + alias,) for alias in _CORE_LAYER[rest])
            yield StoredTensor(paths, fused if is_fused else (name,))


PORT: Final = Dialect("the Megatron port", port_tensors)
CORE: Final = Dialect("Megatron-core", core_tensors)


def fuse(parts: list[torch.Tensor], num_heads: int) -> torch.Tensor:
    """Q, K and V with all their heads, or these heads' share, as rows [heads, 3, head size]."""
    if len(parts) == 1:
        return parts[0]
    split = [part.unflatten(0, (num_heads, -1)) for part in parts]
    return torch.stack(split, dim=1).flatten(0, 2)


def unfuse(tensor: torch.Tensor, index: int, count: int, num_heads: int) -> torch.Tensor:
    """One of ``count`` parts that ``fuse`` put together."""
    if count == 1:
        return tensor
    part: torch.Tensor = tensor.unflatten(0, (num_heads, count, -1))[:, index]
    return part.flatten(0, 1)


def _port_path(name: str) -> tuple[str, ...]:
    if name in _PORT_TOP:
        return _PORT_TOP[name]
    if name.startswith("ln_f."):
        return ("transformer", name.replace("ln_f", "final_layernorm"))
    layer, rest = _split(name)
    module, _, kind = rest.rpartition(".")
    owner = "topQueryLayer" if layer == QUERY_LAYER else layer
    return ("transformer", f"{owner}.{_PORT_LAYER[module]}.{kind}")


def _split(name: str) -> tuple[str, str]:
    """``layers.3`` or ``query_layer``, and what follows."""
    rest = next(rest for rest in LAYER_TABLE if name.endswith(f".{rest}"))
    return name.removesuffix(f".{rest}"), rest
