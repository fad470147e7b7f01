"""Rewrite docs/configuration.md from the strings below the fields of the settings classes.

The page is a function of the classes: ``page()`` gives its text, and a test compares.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

# The strings below fields are read out of the source only where this is set before the import.
os.environ["PANGU_FIELD_DOCS"] = "1"

from k8s import names
from k8s.blocks import REMOTE_SCHEMES
from k8s.changeable import CHANGEABLE
from k8s.not_built import NOT_BUILT, NotBuilt
from k8s.spec import JobSpec, ServiceSpec
from pangu_core.config.base import Settings
from pangu_core.config.model import PRESETS
from pangu_core.config.stages import (
    ConvertConfig,
    FetchConfig,
    PreprocessConfig,
    ReshardConfig,
    ServeConfig,
    TrainConfig,
)

PAGE: Final = Path(__file__).parents[1] / "docs" / "configuration.md"
POD_CONFIGS: Final = (
    FetchConfig,
    PreprocessConfig,
    TrainConfig,
    ReshardConfig,
    ConvertConfig,
    ServeConfig,
)
# Parts of a pod's own form, described where Kubernetes describes them.
KUBERNETES_OWN: Final = frozenset(
    {"Reference", "Resources", "Toleration", "Variable", "VariablesSource", "Volume", "VolumeMount"}
)
COUNT_LIMIT: Final = 2**31  # of every count; said once, in the head
HEAD: Final = """\
# Configuration

Written by `make golden` from the strings in the source; do not edit it here.

A job file is YAML with a `PanguJob`, and perhaps a `PanguService`, in it. Values come from the
defaults, then the file, then `--set PATH=VALUE`, which overrides one field of the spec
(`--set train.steps=10`). An unknown key is refused with the nearest valid one. Paths are relative
to the workspace: the folder of `pangu run --workspace`, or the volume on a cluster. Counts are
below 2^31.
"""

Schema = dict[str, Any]


def page() -> str:
    """The whole page."""
    described: dict[str, str] = {}
    parts = [HEAD, _frame()]
    parts += _form("PanguJob: `spec`", JobSpec, described)
    parts += [_presets(), _changeable(), _not_built()]
    parts += _form("PanguService: `spec`", ServiceSpec, described)
    parts.append(
        "## What pods read\n\n"
        "Each stage's ConfigMap holds one of these, as `config.yaml`; `PANGU_CONFIG` names the "
        "file. `pangu render` prints them.\n"
    )
    for cls in POD_CONFIGS:
        parts += _form(f"`{cls.__name__}`", cls, described, level=3)
    return "\n".join(parts)


def _frame() -> str:
    return (
        "The frame of both kinds:\n\n"
        "```yaml\n"
        f"apiVersion: {names.API_VERSION}\n"
        f"kind: {names.JOB_KIND}                 # or {names.SERVICE_KIND}\n"
        "metadata: {name: my-run}       # outputs go to runs/my-run/\n"
        "spec: {}                       # the fields below\n"
        "```\n\n"
        "A name has lower-case letters, digits and `-`, begins with a letter, and has at most "
        f"{names.JOB_NAME_LIMIT} characters. Objects in one file are parted by a line `---`.\n"
    )


def _form(
    title: str, cls: type[Settings], described: dict[str, str], *, level: int = 2
) -> list[str]:
    """A section for a class, and one for each block in it that no earlier section describes."""
    schema = cls.model_json_schema(by_alias=True)
    return list(_sections(title, "", schema, schema.get("$defs", {}), described, level))


def _sections(
    title: str, path: str, node: Schema, blocks: Schema, described: dict[str, str], level: int
) -> Iterator[str]:
    children: dict[str, str] = {}
    for key, field in node["properties"].items():
        block = _block_of(field)
        if block is not None and block not in KUBERNETES_OWN and block not in described:
            children[f"{path}.{key}" if path else key] = block
            described[block] = key if not path else f"{path}.{key}"
    text = node.get("description", "").replace("``", "`")
    yield f"{'#' * level} {title}\n\n{text}\n\n{_table(node, path, described)}"
    level = level if path else level + 1
    for below, block in children.items():
        yield from _sections(f"`{below}`", below, blocks[block], blocks, described, level)


def _table(node: Schema, path: str, described: dict[str, str]) -> str:
    rows = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in node["properties"].items():
        default = "required" if key in node.get("required", ()) else _default_of(field)
        meaning = " ".join(field.get("description", "").split()).replace("``", "`")
        place = described.get(_block_of(field) or "", "")
        if place and place not in (key, f"{path}.{key}"):
            meaning = f"{meaning} As `{place}`.".strip()
        elif place and not meaning:
            meaning = "See below."
        meaning = meaning.replace("<", "&lt;")
        rows.append(f"| `{key}` | {_type_of(field)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _block_of(field: Schema) -> str | None:
    """The class that a field's value is an object of, or a list of."""
    for option in (field, *field.get("anyOf", ()), field.get("items", {})):
        if "$ref" in option:
            return str(option["$ref"]).rsplit("/", 1)[-1]
        if "$ref" in option.get("items", {}):
            return str(option["items"]["$ref"]).rsplit("/", 1)[-1]
    return None


def _type_of(field: Schema) -> str:
    options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
    if options:
        return " or ".join(_type_of(option) for option in options)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "block"
    if field.get("type") == "array":
        return "list"
    words = {"string": "text", "boolean": "true or false", "object": "mapping"}
    return words.get(field["type"], field["type"]) + _bounds_of(field)


def _bounds_of(field: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [
        f"{sign} {_limit(field[key])}"
        for key, sign in signs.items()
        if key in field and field[key] != COUNT_LIMIT
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _limit(value: float) -> str:
    exponent = round(math.log2(value)) if value > 1 else 0
    return f"2^{exponent}" if exponent > 16 and value == 2**exponent else f"{value:g}"


def _default_of(field: Schema) -> str:
    value = field.get("default")
    if value is None or isinstance(value, dict | list):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _presets() -> str:
    rows = [
        "### Presets\n\nFor `model.preset`.\n",
        "| preset | layers | hidden | heads | positions | vocabulary | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, sizes in PRESETS.items():
        rows.append(
            f"| `{name}` | {sizes.num_layers} | {sizes.hidden_size} | {sizes.num_heads} "
            f"| {sizes.sequence_length} | {sizes.vocab_size} | {sizes.num_parameters:,} |"
        )
    return "\n".join(rows) + "\n"


def _changeable() -> str:
    rows = [
        "### What may change while a job exists\n",
        "All else is refused by the API server, since a run's numbers follow from it. Of a "
        "`PanguService` everything may change: its pods are replaced one after another.\n",
        "| field | takes effect |",
        "| --- | --- |",
        *(f"| `{path}` | {when} |" for path, when in CHANGEABLE.items()),
    ]
    return "\n".join(rows) + "\n"


def _not_built() -> str:
    rows = [
        "### Not built yet\n",
        "The form knows these, so that job files stay valid when they are built; until then each "
        "is refused by its name.\n",
        "| field | refused | instead |",
        "| --- | --- | --- |",
        *(f"| `{each.path}` | {_refused_by(each)} | {each.advice} |" for each in NOT_BUILT),
    ]
    return "\n".join(rows) + "\n"


def _refused_by(entry: NotBuilt) -> str:
    """Which values an entry refuses, found by trying some."""
    schema = JobSpec.model_json_schema(by_alias=True)
    field: Schema = {}
    node = schema
    for key in entry.path.split("."):
        field = node["properties"][key]
        node = schema["$defs"].get(_block_of(field), {})
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if entry.applies(value))
    if entry.applies("a/path"):
        return "any value"
    remote = [f"`{scheme}://`" for scheme in REMOTE_SCHEMES if entry.applies(f"{scheme}://x")]
    return ", ".join(remote) or "a list"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.name)


if __name__ == "__main__":
    main()
