"""Sizes of a PanGu-alpha network for transformers (needs version 5.5)."""

from transformers import PretrainedConfig


class GPTPanguConfig(PretrainedConfig):
    """What config.json holds; the last of the ``num_hidden_layers`` is the query layer.

    ``activation_function`` is gelu_pytorch_tanh for weights of the MindSpore original, gelu (the
    exact one) for those tuned with it, quick_gelu for MindSpore's fast_gelu.
    """

    model_type = "gpt_pangu"
    keys_to_ignore_at_inference = ["past_key_values"]
    # Names of earlier ports' files.
    attribute_map = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    base_model_tp_plan = {
        "h.*.attn.q_proj": "colwise",
        "h.*.attn.k_proj": "colwise",
        "h.*.attn.v_proj": "colwise",
        "h.*.attn.c_proj": "rowwise",
        "h.*.mlp.c_fc": "colwise",
        "h.*.mlp.c_proj": "rowwise",
    }

    def __init__(
        self,
        vocab_size=40000,
        max_position_embeddings=1024,
        hidden_size=2560,
        intermediate_size=None,
        num_hidden_layers=32,
        num_attention_heads=32,
        activation_function="gelu_pytorch_tanh",
        layer_norm_epsilon=1e-5,
        initializer_range=0.02,
        embd_pdrop=0.1,
        attn_pdrop=0.1,
        resid_pdrop=0.1,
        use_cache=True,
        bos_token_id=9,
        eos_token_id=9,
        pad_token_id=6,
        tie_word_embeddings=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.activation_function = activation_function
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.embd_pdrop = embd_pdrop
        self.attn_pdrop = attn_pdrop
        self.resid_pdrop = resid_pdrop
        self.use_cache = use_cache
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
