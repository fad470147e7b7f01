"""The PanGu-alpha network: one file of mathematics for training and for generation.

Sources: the MindSpore original and the paper (arXiv 2104.12369). What is unusual:
the final LayerNorm stands *before* the query layer and nothing is normalised after it; the query
layer's queries come from a table indexed by position, un-normalised; its residual is LN_f's
output; the head is the word table. No condition on ranks here: parallelism is in the layers.

Shapes: B batch, T tokens, C hidden, N heads of this rank, H head size, V vocabulary of this rank.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pangu_core.config.model import Activation, ModelConfig
from pangu_core.dist import ALONE, Axis
from pangu_core.model.cache import CachePlace, KVCache
from pangu_core.parallel.embedding import PositionTable, VocabParallelEmbedding
from pangu_core.parallel.linear import ColumnParallelLinear, ParallelInput, RowParallelLinear
from pangu_core.parallel.rng import Dropout, DropoutKey


@dataclass(frozen=True)
class Build:
    """How a network is built, its sizes aside."""

    axis: Axis = ALONE
    parameter_dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype = torch.float32
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    recompute: bool = False
    sequence_parallel: bool = False

    @property
    def stream(self) -> Axis:
        """The axis over which the stream between tensor-parallel regions is spread."""
        return self.axis if self.sequence_parallel else ALONE


@dataclass(frozen=True)
class Pass:
    """What every layer of one forward pass shares.

    ``mask_B1TS`` is True where a query may see a key; None means plain causal. ``dropout`` is the
    key as ``DropoutKey.tensor`` makes it.
    """

    mask_B1TS: torch.Tensor | None = None
    dropout: torch.Tensor | None = None
    cache: KVCache | None = None
    place: CachePlace | None = None


class LayerNorm(nn.Module):
    """LayerNorm evaluated in fp32 (fp64 stays), result in the input's dtype."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = config.layer_norm_epsilon
        self.weight = nn.Parameter(torch.empty(config.hidden_size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(config.hidden_size, dtype=dtype))

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension with the biased variance."""
        wide = torch.promote_types(x_BTC.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x_BTC.to(wide), weight.shape, weight, bias, self.epsilon).to(
            x_BTC.dtype
        )


class Attention(nn.Module):
    """Multi-head attention whose queries may come from another source than keys and values."""

    def __init__(self, config: ModelConfig, build: Build, layer: int) -> None:
        super().__init__()
        hidden, axis, dtype = config.hidden_size, build.axis, build.parameter_dtype
        self.layer = layer
        self.head_size = config.head_size
        self.enter = ParallelInput(axis, build.stream)
        self.query = ColumnParallelLinear(hidden, hidden, axis, dtype)
        self.key = ColumnParallelLinear(hidden, hidden, axis, dtype)
        self.value = ColumnParallelLinear(hidden, hidden, axis, dtype)
        self.output = RowParallelLinear(hidden, hidden, axis, dtype, stream=build.stream)
        self.dropout = Dropout(build.attention_dropout, f"layers.{layer}.attention", axis)

    def forward(
        self, x_BTC: torch.Tensor, run: Pass, query_BTC: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend from ``query_BTC`` (default: ``x_BTC``) to ``x_BTC`` and the cached past."""
        x_BTC = self.enter(x_BTC)
        source = x_BTC if query_BTC is None else self.enter(query_BTC)
        q_BNTH = self._heads(self.query(source))
        k_BNTH, v_BNTH = self._heads(self.key(x_BTC)), self._heads(self.value(x_BTC))
        if run.cache is not None and run.place is not None:
            k_BNTH, v_BNTH = run.cache.update(self.layer, run.place, k_BNTH, v_BNTH)
        mixed_BNTH = self._attend(q_BNTH, k_BNTH, v_BNTH, run)
        return self.output(mixed_BNTH.transpose(1, 2).flatten(2))

    def _heads(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return x_BTC.unflatten(2, (-1, self.head_size)).transpose(1, 2)

    def _attend(
        self, q_BNTH: torch.Tensor, k_BNSH: torch.Tensor, v_BNSH: torch.Tensor, run: Pass
    ) -> torch.Tensor:
        if run.dropout is None or self.dropout.probability == 0.0:
            return F.scaled_dot_product_attention(
                q_BNTH, k_BNSH, v_BNSH, attn_mask=run.mask_B1TS, is_causal=run.mask_B1TS is None
            )
        # The library draws attention dropout from the global generator; ours is a function of
        # the key, so the probabilities are formed here.
        wide = torch.promote_types(q_BNTH.dtype, torch.float32)
        # Scaled before the product: after it fp16 may have overflowed.
        scores = ((q_BNTH / self.head_size**0.5) @ k_BNSH.transpose(2, 3)).to(wide)
        mask = run.mask_B1TS if run.mask_B1TS is not None else causal_mask(scores)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(q_BNTH.dtype)
        return self.dropout(weights, run.dropout) @ v_BNSH


class Mlp(nn.Module):
    """C -> 4C -> C."""

    def __init__(self, config: ModelConfig, build: Build) -> None:
        super().__init__()
        hidden, axis, dtype = config.hidden_size, build.axis, build.parameter_dtype
        self.enter = ParallelInput(axis, build.stream)
        self.up = ColumnParallelLinear(hidden, 4 * hidden, axis, dtype)
        self.activation = ACTIVATIONS[config.activation]
        self.down = RowParallelLinear(4 * hidden, hidden, axis, dtype, stream=build.stream)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        """Map [B, T, C] to [B, T, C]."""
        return self.down(self.activation(self.up(self.enter(x_BTC))))


class Layer(nn.Module):
    """A pre-LN transformer layer; with ``query_BTC`` it is the query layer."""

    def __init__(self, config: ModelConfig, build: Build, layer: int) -> None:
        super().__init__()
        self.recompute = build.recompute
        self.ln1 = LayerNorm(config, build.parameter_dtype)
        self.attention = Attention(config, build, layer)
        self.attention_dropout = Dropout(
            build.hidden_dropout, f"layers.{layer}.attention_out", stream=build.stream
        )
        self.ln2 = LayerNorm(config, build.parameter_dtype)
        self.mlp = Mlp(config, build)
        self.mlp_dropout = Dropout(
            build.hidden_dropout, f"layers.{layer}.mlp_out", stream=build.stream
        )

    def forward(
        self, x_BTC: torch.Tensor, run: Pass, query_BTC: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One layer; in training with ``recompute`` only its input is kept for the backward."""
        if self.recompute and torch.is_grad_enabled():
            result: torch.Tensor = checkpoint(
                self._compute, x_BTC, run, query_BTC, use_reentrant=False, preserve_rng_state=False
            )
            return result
        return self._compute(x_BTC, run, query_BTC)

    def _compute(
        self, x_BTC: torch.Tensor, run: Pass, query_BTC: torch.Tensor | None
    ) -> torch.Tensor:
        attended = self.attention(self.ln1(x_BTC), run, query_BTC)
        x_BTC = x_BTC + self.attention_dropout(attended, run.dropout)
        return x_BTC + self.mlp_dropout(self.mlp(self.ln2(x_BTC)), run.dropout)


class PanguModel(nn.Module):
    """Token ids to hidden states; ``word_embedding.logits`` makes logits of them.

    Parameters carry the names of ``layout.parameter_names``.
    """

    def __init__(self, config: ModelConfig, build: Build | None = None) -> None:
        super().__init__()
        build = build or Build()
        dtype, length, hidden = build.parameter_dtype, config.sequence_length, config.hidden_size
        self.config = config
        self.axis = build.axis
        self.stream = build.stream
        self.compute_dtype = build.compute_dtype
        self.word_embedding = VocabParallelEmbedding(
            config.vocab_size, hidden, build.axis, dtype, stream=build.stream
        )
        self.position_embedding = PositionTable(length, hidden, dtype, stream=build.stream)
        self.query_embedding = PositionTable(length, hidden, dtype, stream=build.stream)
        self.embedding_dropout = Dropout(build.hidden_dropout, "embedding", stream=build.stream)
        body = config.num_layers - 1
        self.layers = nn.ModuleList(Layer(config, build, index) for index in range(body))
        self.ln_f = LayerNorm(config, dtype)
        self.query_layer = Layer(config, build, body)

    def forward(
        self,
        tokens_BT: torch.Tensor,
        *,
        positions_BT: torch.Tensor | None = None,
        documents_BT: torch.Tensor | None = None,
        dropout: DropoutKey | None = None,
        cache: KVCache | None = None,
        last_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the network.

        Args:
            tokens_BT: int64 ids.
            positions_BT: int64 rows of the position tables; default 0, 1, 2, ...
            documents_BT: segment number of each token; attention stays inside a segment.
            dropout: key of this pass in training; None switches dropout off.
            cache: earlier keys and values, which this pass extends at ``positions_BT``.
            last_B: index of the one token per row whose logits are wanted; default all tokens.

        Returns:
            Logits of this rank, [B, T or 1, V/tp], padding columns included.
        """
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            positions_BT = positions_BT.expand_as(tokens_BT)
        run = _plan_pass(positions_BT, documents_BT, dropout, cache)
        # Generation works on single positions, which cannot be spread.
        assert self.stream.size == 1 or (cache is None and last_B is None)
        x_BTC = self.word_embedding(tokens_BT, self.compute_dtype)
        x_BTC = x_BTC + self.position_embedding(positions_BT, self.compute_dtype)
        x_BTC = self.embedding_dropout(x_BTC, run.dropout)
        for layer in self.layers:
            x_BTC = layer(x_BTC, run)
        x_BTC = self.ln_f(x_BTC)
        query_BTC = self.query_embedding(positions_BT, self.compute_dtype)
        x_BTC = self.query_layer(x_BTC, run, query_BTC)
        if last_B is not None:
            x_BTC = x_BTC[torch.arange(len(x_BTC), device=x_BTC.device), last_B][:, None]
        return self.word_embedding.logits(x_BTC)


def fast_gelu(x: torch.Tensor) -> torch.Tensor:
    """MindSpore's fast GELU: x / (1 + exp(-1.702 |x|)) * exp(0.851 (x - |x|))."""
    magnitude = x.abs()
    return x / (1 + (-1.702 * magnitude).exp()) * (0.851 * (x - magnitude)).exp()


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The tanh form, which MindSpore's nn.GELU computes."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu_erf": F.gelu,
    "fast_gelu": fast_gelu,
}


def causal_mask(scores: torch.Tensor) -> torch.Tensor:
    """True where a query may see a key: the lower triangle of the last two dimensions."""
    queries, keys = scores.shape[-2:]
    return torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)


def _plan_pass(
    positions_BT: torch.Tensor,
    documents_BT: torch.Tensor | None,
    dropout: DropoutKey | None,
    cache: KVCache | None,
) -> Pass:
    if cache is not None:
        place = cache.place(positions_BT)
        return Pass(mask_B1TS=place.mask_B1TS, cache=cache, place=place)
    mask = None
    if documents_BT is not None:
        same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
        mask = same & causal_mask(same)
    return Pass(mask_B1TS=mask, dropout=None if dropout is None else dropout.tensor())
