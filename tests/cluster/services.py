"""PanguServices of one namespace beside its jobs: what tests of services share."""

import json
from typing import Any, Final

from k8s import names
from tests.cluster.access import eventually
from tests.cluster.jobs import PATIENCE_SECONDS, Jobs, condition

SPEC: Final[dict[str, Any]] = {
    "image": "pangu-core:test",
    "workspace": {"claimName": "work"},
    "model": "runs/novel/model",
    "replicas": 2,
    "apiKeys": {"secretName": "keys"},
    "pods": {"resources": {"requests": {"cpu": "1000m"}}},
}


class Services(Jobs):
    """PanguServices of one namespace beside its jobs, and a controller that looks after them."""

    def service_path(self, part: str = "") -> str:
        path = f"/apis/{names.API_VERSION}/namespaces/{self.namespace}/panguservices"
        return f"{path}/novel{part}"

    def serve(self, **changes: object) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.SERVICE_KIND,
            "metadata": {"name": "novel"},
            "spec": SPEC | changes,
        }
        self.cluster.request("POST", self.service_path().removesuffix("/novel"), body)

    def edit(self, spec: dict, part: str = "") -> None:
        kind = "application/merge-patch+json"
        self.cluster.request("PATCH", self.service_path(part), {"spec": spec}, kind=kind)

    def until(self, look):
        """The service's status, as soon as ``look(status)`` holds."""

        def found():
            status = self.cluster.request("GET", self.service_path()).get("status", {})
            return status if status and look(status) else None

        try:
            return eventually(found, seconds=PATIENCE_SECONDS)
        except AssertionError as error:
            log = self.log.read_text(errors="replace")[-4000:]
            said = self.cluster.request("GET", self.service_path()).get("status", {})
            raise AssertionError(f"{error}\n{json.dumps(said, indent=1)}\n{log}") from None

    def until_up_to_date(self, count: int):
        return self.until(
            lambda s: (
                s.get("readyReplicas") == s.get("updatedReplicas") == s.get("replicas") == count
                and condition(s, "Progressing")["reason"] == "UpToDate"
            )
        )

    def child(self, plural: str, group: str = "apis/apps/v1") -> dict:
        path = f"/{group}/namespaces/{self.namespace}/{plural}/novel"
        return self.cluster.request("GET", path)

    def children(self) -> list[str]:
        kinds = "deployments,services,configmaps,poddisruptionbudgets,pods"
        own = ["-n", self.namespace, "-l", f"{names.SERVICE_LABEL}=novel", "-o", "name"]
        return self.cluster.kubectl("get", kinds, *own).split()

    def num_events(self, reason: str) -> int:
        path = f"/api/v1/namespaces/{self.namespace}/events"
        return sum(e["reason"] == reason for e in self.cluster.request("GET", path)["items"])
