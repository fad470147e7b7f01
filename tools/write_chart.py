"""Rewrite what of the chart follows from classes: CRDs, values.yaml, its schema, README's table.

The files are a function of the classes and, for the README, of its own text around the table:
``texts()`` gives them, and a test compares.
"""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

# The strings below fields are read out of the source only where this is set before the import.
os.environ["PANGU_FIELD_DOCS"] = "1"

from pydantic import BaseModel

from k8s import names
from k8s.crd import crds
from k8s.marks import TYPE_KEY, UNFILLED_KEY
from k8s.placement import PodSettings
from k8s.text import compact, one_line, pretty
from tools.chart_values import ChartValues

CHART: Final = Path(__file__).parents[1] / "charts" / "pangu-finetune"
SOURCE: Final = "tools/chart_values.py"
HEAD: Final = "Written by `make golden` from {}; do not edit it here."
# The one that Helm knows without asking the network for it.
DIALECT: Final = "http://json-schema.org/draft-07/schema#"
WIDTH: Final = 98
BEGIN: Final = f"<!-- {HEAD.format(SOURCE)} -->"
END: Final = "<!-- end -->"
# Values of these classes are written as one, and described elsewhere.
WHOLE: Final = (PodSettings,)
_DROPPED: Final = ("title", TYPE_KEY, UNFILLED_KEY)
_DROPPED_PREFIX: Final = "x-kubernetes-"
# What validators of these types check, said to Helm too.
_RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Quantity": {"type": ["string", "integer"]},
    "VariableName": {
        "not": {
            "pattern": f"^({'|'.join(names.RESERVED_VARIABLE_PREFIXES)}|{names.HOME_VARIABLE}$)"
        }
    },
    "VolumeName": {"not": {"enum": list(names.MOUNTS)}},
    "MountPath": {"pattern": "^/.", "not": {"enum": list(names.MOUNTS.values())}},
    "OwnLabels": {
        "not": {"anyOf": [{"required": [label]} for label in names.RESERVED_LABELS]},
    },
}
Schema = dict[str, Any]


def texts() -> dict[str, str]:
    """Path below the chart -> text."""
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    return {
        "values.yaml": f"# {HEAD.format(SOURCE)}\n\n" + "\n".join(_values(ChartValues())),
        "values.schema.json": json.dumps(schema(), indent=2, ensure_ascii=True) + "\n",
        "README.md": _with_table(readme),
        **{f"templates/crds/{name}": _crd(name, each) for name, each in crds().items()},
    }


def _crd(name: str, definition: Schema) -> str:
    """A definition as a template; its name stands first in its metadata, and nothing else."""
    text = compact(definition)
    assert "{{" not in text, "would be read as a template"
    own = f"metadata: {{name: {definition['metadata']['name']}}}\n"
    assert text.count(own) == 1
    replacement = (
        f"metadata:\n  name: {definition['metadata']['name']}\n"
        '  labels: {{- include "pangu.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations: {helm.sh/resource-policy: keep}\n"
        "  {{- end }}\n"
    )
    head = (
        f"{{{{- /* {HEAD.format(f'k8s/crds/{name}')} */}}}}\n{{{{- if .Values.crds.enabled }}}}\n"
    )
    return head + text.replace(own, replacement) + "{{- end }}\n"


def _values(block: BaseModel, indent: str = "") -> Iterator[str]:
    """The lines of a block with the defaults, each field's meaning above it."""
    for name, field in type(block).model_fields.items():
        meaning = " ".join((field.description or "").split())
        yield from textwrap.wrap(
            meaning,
            WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
        )
        value, key = getattr(block, name), field.alias
        if isinstance(value, BaseModel) and not _is_whole(value):
            yield f"{indent}{key}:"
            yield from _values(value, f"{indent}  ")
        else:
            yield textwrap.indent(pretty({key: _plain(value)}).rstrip("\n"), indent)
        if not indent:
            yield ""


def _is_whole(value: BaseModel) -> bool:
    return isinstance(value, WHOLE) or not type(value).__module__.startswith("tools.")


def _plain(value: Any) -> Any:
    if isinstance(value, WHOLE):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return list(value) if isinstance(value, tuple) else value


def schema() -> Schema:
    """The JSON schema of the values; every block refuses what it does not know."""
    source = ChartValues.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    source["definitions"] = source.pop("$defs")
    # Helm hands it to every subchart.
    source["properties"]["global"] = {"type": "object", "description": "Helm's own; not read."}
    return {"$schema": DIALECT, "$comment": HEAD.format(SOURCE), **_cleaned(source)}


def _cleaned(node: Schema) -> Schema:
    """Without the marks for CRDs and without titles; quantities may be numbers."""
    result: Schema = {}
    for key, value in node.items():
        if key in ("properties", "definitions"):
            result[key] = {name: _cleaned(child) for name, child in value.items()}
        elif key in _DROPPED or key.startswith(_DROPPED_PREFIX):
            continue
        elif key == "anyOf":
            result[key] = [_cleaned(option) for option in value]
        else:
            result[key] = _cleaned(value) if isinstance(value, Mapping) else value
    return result | _RULES.get(node.get(TYPE_KEY, ""), {})


def _with_table(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    rows = ["| value | default | meaning |", "| --- | --- | --- |", *_rows(ChartValues())]
    return f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}"


def _rows(block: BaseModel, path: str = "") -> Iterator[str]:
    for name, field in type(block).model_fields.items():
        value, key = getattr(block, name), f"{path}{field.alias}"
        if isinstance(value, BaseModel) and not _is_whole(value):
            yield from _rows(value, f"{key}.")
        else:
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"| `{key}` | `{one_line(_plain(value))}` | {meaning} |"


def main() -> None:
    """Write the files."""
    for name, text in texts().items():
        (CHART / name).write_text(text, encoding="utf-8")
        print(f"{name} ({len(text) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
