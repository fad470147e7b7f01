"""What an annotation tells the CRD's schema, beside what pydantic says of itself."""

from typing import Any, Final

from pydantic import Field

# In a JSON schema: the name of the type whose rules (k8s.rules) hold for this value.
TYPE_KEY: Final = "x-type"
# In a JSON schema: the API server must not fill in the default.
UNFILLED_KEY: Final = "x-unfilled"


def marked(name: str) -> Any:
    """Marks a type, so that its JSON schema says whose rules hold for the value."""
    return Field(json_schema_extra={TYPE_KEY: name})


def keyed(key: str) -> Any:
    """Says in a list's JSON schema that no two of its items may have the same key."""
    extra: Any = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return Field(json_schema_extra=extra)


def unfilled() -> Any:
    """Keeps a default out of objects: of this field it matters whether the user wrote it."""
    return Field(json_schema_extra={UNFILLED_KEY: True})
