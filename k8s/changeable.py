"""What of a job may change while it exists, and when a change takes effect.

All else is refused by rules in the CRD: a run's numbers follow from it, so another value is another
run. A PanguService may change in everything: its pods are replaced one after another.
"""

from collections.abc import Iterator
from typing import Any, Final

from k8s.rules import Rule

_NEXT: Final = "with the next attempt; suspend and resume to start it now"

# Path in the spec -> when a change takes effect. A block stands for all that is in it.
CHANGEABLE: Final[dict[str, str]] = {
    "image": _NEXT,
    "train.nodes.min": "at once; outside the attempt's own range the run saves, and goes on in a "
    "new attempt",
    "train.nodes.max": "at once, as train.nodes.min",
    "train.checkpoint": _NEXT,
    "train.restarts": "at once",
    "train.hang": _NEXT,
    "serve": "when the job ends",
    "suspend": "at once: pods save and end, or a new attempt starts",
    "cancel": "at once: pods save and end; only rerun starts the job again",
    "rerun": "at once",
    "limits": "at once",
    "ttlSecondsAfterFinished": "at once",
    "pods": _NEXT,
    "podsByStage": _NEXT,
    "notify": "when the job ends",
}


def immutable(schema: dict[str, Any]) -> Iterator[tuple[str, Rule]]:
    """A rule for each field of a job's spec that must not change, with the block it belongs to.

    Args:
        schema: the structural schema of the spec.
    """
    yield from _below("", schema)


def _below(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, Rule]]:
    for key, field in schema["properties"].items():
        whole = f"{path}.{key}" if path else key
        if whole in CHANGEABLE:
            continue
        if any(each.startswith(f"{whole}.") for each in CHANGEABLE):
            yield from _below(whole, field)
        else:
            yield path, _stays(key)


def _stays(key: str) -> Rule:
    """A rule of the block, since one of the field is not asked when the field comes or goes."""
    return Rule(
        f"has(self.{key}) == has(oldSelf.{key}) && (!has(self.{key}) || self.{key} == oldSelf.{key})",
        "cannot change while the job exists; create another job",
        field=f".{key}",
        forbids=True,
    )
