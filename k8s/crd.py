"""The custom resource definitions of PanguJob and PanguService. Pure.

Written to k8s/crds/ by ``make golden``. Descriptions come from the strings below the fields, which
are there only where ``FIELD_DOCS_VARIABLE`` was set before the first import.
"""

from typing import Any, Final

from pydantic import TypeAdapter

from k8s import names
from k8s.changeable import immutable
from k8s.rules import ROOT_RULES
from k8s.schema import RULES_KEY, Schema, structural
from k8s.spec import JobSpec, ServiceSpec
from k8s.status import JobStatus, ServiceStatus

Manifest = dict[str, Any]
Column = tuple[str, str, str, int]  # name, type, path, and 1 where only `-o wide` shows it

JOB_COLUMNS: Final[tuple[Column, ...]] = (
    ("Phase", "string", ".status.phase", 0),
    ("Nodes", "string", ".status.summary.nodes", 0),
    ("TP", "integer", ".spec.train.tensorParallel", 0),
    ("Step", "integer", ".status.progress.step", 0),
    ("Progress", "string", ".status.summary.progress", 0),
    ("Loss", "string", ".status.summary.loss", 0),
    ("Restarts", "string", ".status.summary.restarts", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Stage", "string", ".status.attempt.stage", 1),
    ("Tokens/s", "number", ".status.progress.tokensPerSecond", 1),
    ("Seconds-Left", "integer", ".status.progress.etaSeconds", 1),
    ("Queue", "string", ".spec.queue.name", 1),
)
SERVICE_COLUMNS: Final[tuple[Column, ...]] = (
    ("Available", "string", '.status.conditions[?(@.type=="Available")].status', 0),
    ("Ready", "integer", ".status.readyReplicas", 0),
    ("Replicas", "integer", ".spec.replicas", 0),
    ("TP", "integer", ".spec.tensorParallel", 0),
    ("Model", "string", ".spec.model", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Address", "string", ".status.address", 1),
)


def job_crd() -> Manifest:
    """The definition of PanguJob."""
    spec = structural(JobSpec.model_json_schema(by_alias=True))
    for path, rule in immutable(spec):
        block = spec
        for key in path.split(".") if path else ():
            block = block["properties"][key]
        block.setdefault(RULES_KEY, []).append(rule.to_dict())
    status = structural(TypeAdapter(JobStatus).json_schema(by_alias=True), fills=False)
    return _definition(names.JOB_KIND, "pj", spec, status, columns=JOB_COLUMNS)


def service_crd() -> Manifest:
    """The definition of PanguService."""
    spec = structural(ServiceSpec.model_json_schema(by_alias=True))
    status = structural(TypeAdapter(ServiceStatus).json_schema(by_alias=True), fills=False)
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return _definition(names.SERVICE_KIND, "ps", spec, status, columns=SERVICE_COLUMNS, scale=scale)


def crds() -> dict[str, Manifest]:
    """File name -> definition."""
    return {
        f"{definition['spec']['names']['plural']}.yaml": definition
        for definition in (job_crd(), service_crd())
    }


def _definition(
    kind: str,
    short_name: str,
    spec: Schema,
    status: Schema,
    *,
    columns: tuple[Column, ...],
    scale: dict[str, str] | None = None,
) -> Manifest:
    singular = kind.lower()
    group, version = names.API_VERSION.split("/")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
                "shortNames": [short_name],
                "categories": ["pangu"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_column(*column) for column in columns],
                    "subresources": {"status": {}} | ({"scale": scale} if scale else {}),
                    "schema": {"openAPIV3Schema": _object(spec, status)},
                }
            ],
        },
    }


def _object(spec: Schema, status: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        RULES_KEY: [rule.to_dict() for rule in ROOT_RULES],
    }


def _column(name: str, kind: str, path: str, priority: int) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})
