"""Kubernetes' metadata, as far as our objects' files have it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from k8s import names
from pangu_core.config.base import Settings
from pangu_core.loading import broken_rule

# What an API server adds to metadata; read back without complaint, and dropped.
SERVER_FIELDS: Final = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)
_DNS_1035: Final = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def _object_name(name: str) -> str:
    if not _DNS_1035.fullmatch(name):
        raise broken_rule(
            "must be lower-case letters, digits and '-', begin with a letter, not end with '-'",
            "choose another name",
        )
    if len(name) > names.JOB_NAME_LIMIT:
        raise broken_rule(
            f"must have at most {names.JOB_NAME_LIMIT} characters, so that the names of its pods "
            f"fit in {names.NAME_LIMIT}",
            f"shorten it by {len(name) - names.JOB_NAME_LIMIT}",
        )
    return name


class Metadata(Settings):
    """Kubernetes' metadata, as far as it matters here."""

    name: Annotated[str, AfterValidator(_object_name)]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str | None = None
    generation: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_server_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if key not in SERVER_FIELDS}
