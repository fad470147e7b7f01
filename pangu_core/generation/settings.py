"""How text is generated: what the command line, the Python interface and a service let users set."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pangu_core import loading


class GenerationSettings(BaseModel):
    """One set of rules for a batch of prompts. The filters apply in the order of the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    max_new_tokens: Annotated[int, Field(ge=1)] = 100
    """Most tokens to add. The model's position table may end the text earlier."""
    greedy: bool = False
    """Take the likeliest token; temperature, top_k, top_p and seed have no effect then."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Scores of tokens already in prompt or text are made less by this factor; 1: off."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Scores are divided by it: below 1 bolder, above 1 more varied; 0 is greedy."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw among this many best tokens only; 0: all."""
    # The paper's setting for open-ended answers (arXiv 2104.12369, CMRC2017).
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Draw among the fewest tokens whose probabilities reach this sum; 1: all."""
    seed: int = 1234
    """The same seed, prompt and model give the same text, alone or in any batch."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The text ends before the first of these strings."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Prompts that run together. Speed and memory depend on it, the texts do not."""

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.greedy or self.temperature == 0.0

    @property
    def choice(self) -> tuple[float, ...]:
        """What the choice of a token depends on; rows that agree in it can be drawn together."""
        if self.is_greedy:
            return (self.repetition_penalty,)
        return (self.repetition_penalty, self.temperature, self.top_k, self.top_p)


def read_settings(values: dict[str, Any], prefix: str = "") -> GenerationSettings:
    """Validate plain values; a single string is one stop string.

    Raises:
        ConfigError: naming the wrong or unknown key.
    """
    if isinstance(values.get("stop"), str):
        values = {**values, "stop": (values["stop"],)}
    return loading.load(GenerationSettings, values, prefix)
