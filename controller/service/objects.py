"""Which objects of a service have to be applied, and which have to go. Pure.

An object is in line if it says that it was made from the very manifest that is wanted, and every
field of that manifest is still there. What the API server or others added does not count.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from controller.service.observe import AUTOSCALER_KINDS, Object, ObservedService
from k8s import names

_QUANTITY: Final = re.compile(r"([0-9.]+)(m|k|Ki|[MGTPE]i?)?")
_POWERS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
CONFIG_KIND: Final = "ConfigMap"


@dataclass(frozen=True)
class Apply:
    """Apply a manifest, as the only one who says what is in it."""

    manifest: Object


@dataclass(frozen=True)
class Drop:
    """Delete an object that is not wanted any more."""

    item: Object


Action = Apply | Drop


def actions_for(observed: ObservedService) -> tuple[Action, ...]:
    """What brings the objects in line; nothing that is in line is written."""
    drops = tuple(_drops(observed))
    applies = [Apply(each) for each in _makeable(observed) if not is_in_line(each, observed)]
    return (*drops, *applies)


def sealed(manifest: Object) -> dict[str, Any]:
    """A manifest with the checksum of itself."""
    text = json.dumps(manifest, sort_keys=True)
    seal = {names.APPLIED_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:16]}
    metadata = manifest["metadata"]
    notes = {**metadata.get("annotations", {}), **seal}
    return {**manifest, "metadata": {**metadata, "annotations": notes}}


def is_in_line(manifest: Object, observed: ObservedService) -> bool:
    """Whether an object is there as a sealed manifest wants it."""
    metadata = manifest["metadata"]
    found = observed.found(manifest["kind"], metadata["name"])
    if found is None or "deletionTimestamp" in found["metadata"]:
        return False
    wanted = {key: metadata[key] for key in ("labels", "annotations")}
    has_marks = _covers(found["metadata"], wanted)
    return has_marks and _covers(found.get("spec", {}), manifest.get("spec", {}))


def is_rolled_out(observed: ObservedService) -> bool:
    """Whether every pod that there is comes from the Deployment as it is wanted."""
    found = observed.deployment
    wanted = next(o for o in observed.service.wanted if o["kind"] == "Deployment")
    if found is None or not is_in_line(wanted, observed):
        return False
    status, count = found.get("status", {}), found["spec"].get("replicas", 1)
    is_seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    counts = (status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas"))
    return is_seen and all(each == count for each in counts)


def _makeable(observed: ObservedService) -> Iterator[Object]:
    """What is wanted, but for autoscalers of a kind that is not there."""
    for manifest in observed.service.wanted:
        if manifest["kind"] not in AUTOSCALER_KINDS or manifest["kind"] in observed.installed:
            yield manifest


def _drops(observed: ObservedService) -> Iterator[Drop]:
    wanted = {(o["kind"], o["metadata"]["name"]) for o in observed.service.wanted}
    is_done = is_rolled_out(observed)
    for item in observed.own:
        kind, metadata = item["kind"], item["metadata"]
        is_wanted = (kind, metadata["name"]) in wanted or "deletionTimestamp" in metadata
        is_old = kind in AUTOSCALER_KINDS or (kind == CONFIG_KIND and is_done)
        if is_old and not is_wanted:
            yield Drop(item)


def _covers(found: Any, wanted: Any) -> bool:
    """Whether everything wanted is found; what is empty counts as absent."""
    if isinstance(wanted, dict):
        fields = found if isinstance(found, dict) else {}
        return all(_covers(fields.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        items = found if isinstance(found, list) else []
        pairs = zip(items, wanted, strict=False)
        return len(items) == len(wanted) and all(_covers(one, other) for one, other in pairs)
    if found == wanted or (found is None and not wanted):
        return True
    return isinstance(found, str) and isinstance(wanted, str) and _is_same_amount(found, wanted)


def _is_same_amount(one: str, other: str) -> bool:
    """Whether two texts are one quantity: the API server writes 1 for 1000m."""
    amounts = [_amount(text) for text in (one, other)]
    return None not in amounts and amounts[0] == amounts[1]


def _amount(text: str) -> Decimal | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[1].count(".") > 1 or match[1] == ".":
        return None
    suffix = match[2] or ""
    if suffix == "m":
        return Decimal(match[1]) / 1000
    base = Decimal(1024 if suffix.endswith("i") else 1000)
    return Decimal(match[1]) * base ** _POWERS[suffix.removesuffix("i")]
