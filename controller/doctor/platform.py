"""The API server, our definitions in it, and the controller."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from controller.cluster.kinds import CONFIG_MAP, DEPLOYMENT, JOB, SERVICE
from controller.cluster.territory import MARK
from controller.doctor.finding import Finding, Object, Server, found
from k8s import names
from pangu_core.loading import read_yaml

# Generated files: to work them out takes a second.
DEFINITIONS: Final = Path(names.__file__).parent / "crds"
OLDEST: Final = (1, 31)
CONTROLLER: Final = "pangu-controller"
INSTALL: Final = "helm install pangu charts/pangu-finetune --namespace {}"
UPGRADE: Final = (
    "helm upgrade pangu charts/pangu-finetune --namespace {}, or kubectl apply -f k8s/crds"
)


def api_server(server: Server) -> Iterator[Finding]:
    """Whether Kubernetes is new enough."""
    answer = server.request("GET", "/version")
    version = tuple(int(re.sub(r"\D", "", answer[part])) for part in ("major", "minor"))
    if version >= OLDEST:
        yield Finding("API server", "good", answer["gitVersion"])
        return
    oldest = ".".join(str(part) for part in OLDEST)
    fix = f"upgrade the cluster: validation rules of ours need {oldest}"
    yield Finding("API server", "bad", f"{answer['gitVersion']}, older than {oldest}", fix)


def definitions(server: Server) -> Iterator[Finding]:
    """Whether PanguJob and PanguService are there, with the fields of this version."""
    document = found(server, f"/openapi/v3/apis/{names.API_VERSION}") or {}
    served = document.get("components", {}).get("schemas", {})
    by_kind = {
        each["x-kubernetes-group-version-kind"][0]["kind"]: each
        for each in served.values()
        if "x-kubernetes-group-version-kind" in each
    }
    ours = {each["spec"]["names"]["kind"]: each for each in our_definitions()}
    for kind in (JOB, SERVICE):
        subject = f"definition {kind.name}"
        if kind.name not in by_kind:
            fix = INSTALL.format(server.namespace)
            yield Finding(subject, "bad", "not installed", fix)
            continue
        theirs = _fields(by_kind[kind.name], served)
        own = _fields(ours[kind.name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"], {})
        yield _compared(subject, theirs, own, UPGRADE.format(server.namespace))


def our_definitions() -> list[Object]:
    """The definitions of this version, as they are installed."""
    return [each for path in sorted(DEFINITIONS.glob("*.yaml")) for each in read_yaml(path)]


def _compared(subject: str, theirs: set[str], own: set[str], fix: str) -> Finding:
    lacking, unknown = sorted(own - theirs), sorted(theirs - own)
    if lacking:
        return Finding(subject, "bad", f"of another version: lacks {_some(lacking)}", fix)
    if unknown:
        newer = "install the version of pangu that the cluster has"
        return Finding(subject, "bad", f"newer than this command: has {_some(unknown)}", newer)
    return Finding(subject, "good", "of this version")


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _fields(schema: Object, schemas: Object, path: str = "") -> set[str]:
    """Paths of all fields below spec and status."""
    paths: set[str] = set()
    for name, child in _children(schema, schemas).items():
        if not path and name not in ("spec", "status"):
            continue
        whole = f"{path}.{name}" if path else name
        paths |= {whole} | _fields(child, schemas, whole)
    return paths


def _children(schema: Object, schemas: Object) -> dict[str, Any]:
    inner = schema.get("items") or schema
    if isinstance(inner.get("additionalProperties"), dict):
        inner = inner["additionalProperties"]
    properties: dict[str, Any] = inner.get("properties", {})
    return properties


def controller(server: Server) -> Iterator[Finding]:
    """Whether somebody works on the jobs of the namespace."""
    namespace = server.namespace
    mark = found(server, CONFIG_MAP.path(namespace, MARK))
    deployment = found(server, DEPLOYMENT.path(namespace, CONTROLLER))
    if deployment is None and mark is None:
        deployment = _everywhere(server)
        if deployment is None:
            fix = INSTALL.format(namespace)
            seen = f"nobody works on jobs of namespace {namespace}"
            yield Finding("controller", "bad", seen, fix)
            return
    if deployment is None:
        yield Finding("controller", "good", "watches this namespace from another one")
        return
    place = deployment["metadata"]["namespace"]
    ready = deployment.get("status", {}).get("readyReplicas", 0)
    seen = f"{ready} replicas ready in namespace {place}"
    if ready:
        yield Finding("controller", "good", seen)
    else:
        fix = f"kubectl describe deployment {CONTROLLER} --namespace {place}"
        yield Finding("controller", "bad", seen, fix)


def _everywhere(server: Server) -> Object | None:
    """The Deployment of a controller that watches every namespace."""
    query = {"fieldSelector": f"metadata.name={CONTROLLER}"}
    for each in server.request("GET", DEPLOYMENT.path(), query)["items"]:
        container = each["spec"]["template"]["spec"]["containers"][0]
        if "--all-namespaces" in container.get("args", []):
            return dict(each)
    return None
