"""The sizes of a network, and the published ones."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from pangu_core.config.base import Settings, Size, divisors
from pangu_core.errors import ConfigError

Activation = Literal["gelu_tanh", "gelu_erf", "fast_gelu"]


class ModelConfig(Settings):
    """The sizes of one PanGu-alpha network."""

    num_layers: Size
    """Transformer layers, the query layer included (the Megatron port counts one less)."""
    hidden_size: Size
    """Width of the residual stream."""
    num_heads: Size
    """Attention heads; must divide hiddenSize."""
    vocab_size: Size = 40_000
    """Rows of the word table. Files hold exactly these; padding exists in memory only."""
    sequence_length: Size = 1_024
    """Rows of the position and query tables: the longest sequence the model can read."""
    layer_norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance inside the square root."""
    activation: Activation = "gelu_tanh"
    """tanh GELU is MindSpore's; a Megatron-port checkpoint tuned with erf GELU says so itself."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights; output projections are scaled by 1/sqrt(2 L)."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """L (12 h^2 + 13 h) + V h + 2 S h + 2 h, the tied head counted once."""
        h = self.hidden_size
        tables = (self.vocab_size + 2 * self.sequence_length) * h
        return self.num_layers * (12 * h * h + 13 * h) + tables + 2 * h

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                "model.numHeads",
                seen=self.num_heads,
                rule=f"must divide model.hiddenSize ({self.hidden_size})",
                fix=f"choose one of {divisors(self.hidden_size)}",
            )
        return self


PRESETS: Final[dict[str, ModelConfig]] = {
    # tiny is ours, for laptops and tests; the others are the published sizes (paper, table 1;
    # 350M from the released configuration).
    "tiny": ModelConfig(num_layers=4, hidden_size=128, num_heads=4, sequence_length=256),
    "350M": ModelConfig(num_layers=24, hidden_size=1024, num_heads=16),
    "2.6B": ModelConfig(num_layers=32, hidden_size=2560, num_heads=32),
    "13B": ModelConfig(num_layers=40, hidden_size=5120, num_heads=40),
}
