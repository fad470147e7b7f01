"""What the one who asks may do in the namespace, by SelfSubjectAccessReview."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controller.cluster.kinds import ACCESS_REVIEW, EVENT, JOB, POD, SERVICE, Kind
from controller.doctor.finding import Finding, Server


@dataclass(frozen=True)
class Need:
    """What some of our commands do."""

    commands: str
    kind: Kind
    verbs: tuple[str, ...]
    part: str = ""
    is_optional: bool = False


NEEDS: Final = (
    Need("status", JOB, ("get", "list")),
    Need("submit, suspend, resume, scale", JOB, ("create", "patch")),
    Need("delete", JOB, ("delete",)),
    Need("submit of a service", SERVICE, ("create", "patch"), is_optional=True),
    Need("logs", POD, ("list",)),
    Need("logs", POD, ("get",), "log"),
    Need("cp", POD, ("get", "create", "delete"), is_optional=True),
    Need("cp", POD, ("create",), "exec", is_optional=True),
    Need("kubectl describe", EVENT, ("list",), is_optional=True),
)


def rights(server: Server) -> Iterator[Finding]:
    """One finding for each thing that is lacking, or one that nothing is."""
    is_whole = True
    for need in NEEDS:
        lacking = [verb for verb in need.verbs if not _may(server, need, verb)]
        if not lacking:
            continue
        is_whole = False
        what = f"{need.kind.plural}/{need.part}" if need.part else need.kind.plural
        role = "pangu-edit" if need.kind in (JOB, SERVICE) else "edit"
        fix = (
            f"kubectl create rolebinding pangu-USER --namespace {server.namespace} "
            f"--clusterrole {role} --user USER"
        )
        seen = f"may not {', '.join(lacking)} {what}: needed for {need.commands}"
        yield Finding("rights", "note" if need.is_optional else "bad", seen, fix)
    if is_whole:
        yield Finding("rights", "good", f"every command works in namespace {server.namespace}")


def _may(server: Server, need: Need, verb: str) -> bool:
    attributes = {
        "namespace": server.namespace,
        "group": need.kind.group,
        "resource": need.kind.plural,
        "subresource": need.part,
        "verb": verb,
    }
    body = {
        "apiVersion": ACCESS_REVIEW.api_version,
        "kind": ACCESS_REVIEW.name,
        "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
    }
    answer = server.request("POST", ACCESS_REVIEW.path(), {}, body)
    return bool(answer["status"]["allowed"])
