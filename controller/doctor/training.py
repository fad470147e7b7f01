"""The Kubeflow training operator, and Kueue where it is."""

from collections.abc import Iterator
from typing import Any, Final

from controller.cluster.kinds import CONFIG_MAP, DEPLOYMENT, PYTORCH_JOB
from controller.doctor.finding import Finding, Object, Server, found
from pangu_core.loading import parse_yaml

OPERATOR_LABEL: Final = "control-plane=kubeflow-training-operator"
INSTALL: Final = (
    "kubectl apply --server-side -k "
    "'github.com/kubeflow/training-operator/manifests/overlays/standalone?ref=v1.9.4'"
)
FRAMEWORK: Final = "kubeflow.org/pytorchjob"
KUEUE_PLACE: Final = "kueue-system"
KUEUE_CONFIG: Final = "kueue-manager-config"
SCHEME_FLAG: Final = "enable-scheme"


def training_operator(server: Server) -> Iterator[Finding]:
    """Whether PyTorchJobs are served and somebody makes pods of them."""
    group = found(server, f"/apis/{PYTORCH_JOB.api_version}")
    served = {each["name"] for each in (group or {}).get("resources", ())}
    if PYTORCH_JOB.plural not in served:
        yield Finding("training operator", "bad", "no kind PyTorchJob", INSTALL)
        return
    query = {"labelSelector": OPERATOR_LABEL}
    deployments = server.request("GET", DEPLOYMENT.path(), query)["items"]
    if not deployments:
        seen = f"kind PyTorchJob is there, no Deployment with {OPERATOR_LABEL}"
        yield Finding("training operator", "note", seen, INSTALL)
    for deployment in deployments:
        yield _operator(deployment, server.namespace)


def _operator(deployment: Object, namespace: str) -> Finding:
    metadata = deployment["metadata"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    flags = _flags([*container.get("command", []), *container.get("args", [])])
    whole = f"deployment {metadata['name']} --namespace {metadata['namespace']}"
    seen = f"{container['image'].rpartition('/')[2]} {' '.join(_words(flags))}".strip()
    schemes, only = flags.get(SCHEME_FLAG, []), flags.get("namespace", [])
    edit = f"kubectl edit {whole}"
    if schemes and "pytorchjob" not in schemes:
        fix = f"{edit}: add --{SCHEME_FLAG}=pytorchjob"
        return Finding("training operator", "bad", f"{seen}: PyTorchJobs are left out", fix)
    if only and only != [namespace]:
        fix = f"{edit}: remove --namespace, or work there"
        return Finding("training operator", "bad", f"{seen}: works elsewhere", fix)
    if not deployment.get("status", {}).get("availableReplicas"):
        return Finding(
            "training operator", "bad", f"{seen}: no replica runs", f"kubectl describe {whole}"
        )
    return Finding("training operator", "good", seen)


def _flags(words: list[str]) -> dict[str, list[str]]:
    """Flags of Go's kind, ``-a=b`` or ``--a=b``; each may be given several times."""
    found_flags: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
            found_flags.setdefault(name, []).append(value.lower())
    return found_flags


def _words(flags: dict[str, list[str]]) -> Iterator[str]:
    for name, values in flags.items():
        yield from (f"--{name}={value}" if value else f"--{name}" for value in values)


def kueue(server: Server) -> Iterator[Finding]:
    """Whether Kueue, where it is installed, looks after PyTorchJobs."""
    if found(server, "/apis/kueue.x-k8s.io") is None:
        yield Finding("Kueue", "note", "not installed; jobs start without a queue")
        return
    config = found(server, CONFIG_MAP.path(KUEUE_PLACE, KUEUE_CONFIG))
    text = (config or {}).get("data", {}).get("controller_manager_config.yaml", "")
    settings: Any = next(iter(parse_yaml(text, KUEUE_CONFIG)), {})
    frameworks = settings.get("integrations", {}).get("frameworks", [])
    if FRAMEWORK in frameworks:
        yield Finding("Kueue", "good", f"looks after {FRAMEWORK}")
        return
    fix = (
        f"kubectl edit configmap {KUEUE_CONFIG} --namespace {KUEUE_PLACE}: add {FRAMEWORK} to "
        f"integrations.frameworks; then kubectl rollout restart deployment "
        f"kueue-controller-manager --namespace {KUEUE_PLACE}"
    )
    yield Finding("Kueue", "bad", f"integrations.frameworks has no {FRAMEWORK}", fix)
