"""PanGu-alpha for transformers (needs version 5.5): a GPT whose last layer is the query layer.

What is unusual: the final LayerNorm stands before the query layer and nothing is normalised after
it; the query layer's queries come from a table indexed by position; its residual is the final
LayerNorm's output; the head is the word table. Attention goes through transformers' table of
attention functions with all keyword arguments, so that vLLM and SGLang can put theirs in.
"""

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

from .configuration_gptpangu import GPTPanguConfig  # noqa: TID252 - how transformers finds it


def eager_attention_forward(
    module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs
):
    """Attention in plain operations, with the probabilities to look at; softmax in fp32."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class GPTPanguAttention(nn.Module):
    """Multi-head attention; in the query layer the queries have a source of their own."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states, query_source, attention_mask=None, past_key_values=None, **kwargs
    ):
        """Attend from ``query_source`` to ``hidden_states`` and the cached past."""
        # -1: with tensor parallelism each rank has a part of the heads.
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(query_source).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        # transformers looks for this very call before it lets anyone choose the function.
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attn_pdrop if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        mixed = mixed.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return self.c_proj(mixed), weights


class GPTPanguMLP(nn.Module):
    """C -> 4C -> C."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACT2FN[config.activation_function]

    def forward(self, hidden_states):
        """Map [B, T, C] to [B, T, C]."""
        return self.c_proj(self.act(self.c_fc(hidden_states)))


class GPTPanguBlock(GradientCheckpointingLayer):
    """A pre-LN layer; with ``query_source`` it is the query layer."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = GPTPanguAttention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = GPTPanguMLP(config)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states, query_source=None, **kwargs):
        """Returns the new hidden states and the attention's probabilities, if there are any."""
        normed = self.ln_1(hidden_states)
        mixed, weights = self.attn(
            normed, normed if query_source is None else query_source, **kwargs
        )
        hidden_states = hidden_states + self.dropout(mixed)
        return hidden_states + self.dropout(self.mlp(self.ln_2(hidden_states))), weights


class GPTPanguPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of all PanGu-alpha models."""

    config_class = GPTPanguConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPTPanguBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # Masks that earlier ports kept beside their weights.
    _keys_to_ignore_on_load_unexpected = [r"attn\.bias$", r"attn\.masked_bias$"]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, GPTPanguAttention | GPTPanguMLP):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            init.normal_(module.c_proj.weight, mean=0.0, std=std)


class GPTPanguModel(GPTPanguPreTrainedModel):
    """Token ids to hidden states."""

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.wqe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(
            GPTPanguBlock(config, index) for index in range(config.num_hidden_layers)
        )
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        """The word table."""
        return self.wte

    def set_input_embeddings(self, value):
        """Replace the word table."""
        self.wte = value

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        """Run the network; ``past_key_values`` gets an entry for each layer, the query layer too.

        Without ``position_ids``, positions count the tokens that ``attention_mask`` lets through,
        so a row padded on the left gives the numbers of the same row without padding.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache, past_key_values = False, None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._positions(inputs_embeds, attention_mask, past_key_values)
        # By position: the cache's parameter was renamed in transformers 5.24.
        mask = create_causal_mask(
            self.config, inputs_embeds, attention_mask, past_key_values, position_ids=position_ids
        )
        kwargs |= {"attention_mask": mask, "position_ids": position_ids}
        hidden_states = self.drop(inputs_embeds + self.wpe(position_ids))
        all_states, all_weights = [], []
        for block in self.h[:-1]:
            all_states.append(hidden_states)
            hidden_states, weights = block(hidden_states, past_key_values=past_key_values, **kwargs)
            all_weights.append(weights)
        all_states.append(hidden_states)
        # Positional: reentrant checkpointing gives no gradient to keyword arguments.
        hidden_states, weights = self.h[-1](
            self.ln_f(hidden_states),
            self.wqe(position_ids).expand_as(hidden_states),
            past_key_values=past_key_values,
            **kwargs,
        )
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*all_states, hidden_states) if output_hidden_states else None,
            attentions=(*all_weights, weights) if output_attentions else None,
        )

    def _positions(self, inputs_embeds, attention_mask, past_key_values):
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = inputs_embeds.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            return positions[:, -length:]
        if past + length > self.config.max_position_embeddings:
            raise ValueError(
                f"{past + length} tokens: the model reads at most "
                f"{self.config.max_position_embeddings}"
            )
        return torch.arange(past, past + length, device=inputs_embeds.device)[None]


class GPTPanguForCausalLM(GPTPanguPreTrainedModel, GenerationMixin):
    """The network with its head, which is the word table."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.transformer = GPTPanguModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, value):
        """Replace the head."""
        self.lm_head = value

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """Logits, and the loss of ``labels`` (shifted here; -100 does not count)."""
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
