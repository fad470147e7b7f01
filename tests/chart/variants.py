"""Values that between them turn every switch, and ways to find things in what Helm makes of them."""

from typing import Any

import pytest

Manifest = dict[str, Any]
EVERYTHING = {
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
    "watch": {"namespaces": ["research", "products"], "nodes": True, "queues": True, "autoscalers": True},
    "controller": {
        "replicas": 3,
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        "priorityClassName": "system-cluster-critical",
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "labels": {"team": "platform"},
        "annotations": {"note": "yes"},
        "resources": {"requests": {"cpu": 1, "memory": 68719476736}},
    },
    "serviceAccount": {"name": "pangu", "annotations": {"role": "x"}},
    "defaults": {
        "storeImage": "store:1",
        "pods": {"schedulerName": "gangs", "resources": {"requests": {"memory": 68719476736}}},
    },
    "networkPolicies": {
        "controller": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        },
        "jobs": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {}}],
            "egress": [{"ports": [{"port": 9000, "endPort": 9001}]}],
        },
    },
    "monitoring": {
        "labels": {"release": "prometheus"},
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "labels": {"cost-centre": "42"},
}  # fmt: skip
EVERYWHERE = EVERYTHING | {"watch": {"allNamespaces": True}}
LEAST = {
    "crds": {"enabled": False},
    "controller": {"replicas": 1, "disruptionBudget": False, "spreadOver": []},
    "serviceAccount": {"create": False, "name": "given"},
}
VARIANTS = pytest.mark.parametrize(
    "values",
    [{}, LEAST, EVERYTHING, EVERYWHERE, {"watch": {"nodes": True}}, {"crds": {"keep": False}}],
    ids=["default", "least", "everything", "everywhere", "nodes", "unkept"],
)


def find(
    manifests: list[Manifest],
    kind: str,
    name: str = "pangu-controller",
    namespace: str | None = None,
) -> Manifest:
    """The one object of a kind and a name."""
    found = [
        m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name
        and namespace in (None, m["metadata"].get("namespace"))
    ]  # fmt: skip
    assert len(found) == 1, f"{len(found)} {kind} {name}"
    return found[0]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """The specs of all pods."""
    return [
        m["spec"]["template"]["spec"] if m["kind"] == "Deployment" else m["spec"]
        for m in manifests
        if m["kind"] in ("Deployment", "Pod")
    ]


def arguments(manifests: list[Manifest]) -> list[str]:
    """What the controller is started with."""
    return find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
