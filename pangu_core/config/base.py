"""What all settings share: frozen, strict, camelCase in YAML. Must not import torch.

The string below each field is its documentation: it ends up in the CRD and in
docs/configuration.md.
"""

import os
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Reading the fields' documentation out of the source takes 60 ms, a fifth of ``pangu render``: only
# what writes documentation or schemas sets this variable, before its first import.
FIELD_DOCS_VARIABLE: Final = "PANGU_FIELD_DOCS"
# The bounds refuse slips of the keyboard before anything overflows or is allocated.
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Size = Annotated[int, Field(ge=1, lt=2**24)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
T = TypeVar("T")
# Frozen settings hold tuples, YAML gives lists; what is in them is still checked strictly.
Items = Annotated[tuple[T, ...], Field(strict=False)]


class Settings(BaseModel):
    """Base of every settings class: frozen, camelCase in YAML, strict about keys and about types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=FIELD_DOCS_VARIABLE in os.environ,
        allow_inf_nan=False,
    )

    def dump(self) -> dict[str, Any]:
        """Plain YAML-ready values in camelCase; ``type(self).model_validate`` reads them back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def divisors(number: int) -> list[int]:
    """All divisors in rising order, for messages that offer a choice."""
    return [d for d in range(1, number + 1) if number % d == 0]
