"""What pods need: volumes that many of them can mount, and GPUs."""

from collections.abc import Iterator
from typing import Final

from controller.cluster.kinds import CLAIM, NODE
from controller.doctor.finding import Finding, Server
from k8s import names

CLASSES: Final = "/apis/storage.k8s.io/v1/storageclasses"
DEFAULT_MARK: Final = "storageclass.kubernetes.io/is-default-class"
# Words in the names of provisioners whose volumes several nodes can write at one time. A class does
# not say so itself.
SHARED: Final = (
    "nfs", "efs", "filestore", "file.csi.azure", "cephfs", "lustre", "fsx", "glusterfs", "beegfs",
    "weka", "juicefs", "quobyte", "portworx", "longhorn", "gpfs", "spectrumscale", "trident", "smb",
)  # fmt: skip


def storage(server: Server) -> Iterator[Finding]:
    """Storage classes: the default one, and those for ReadWriteMany."""
    items = server.request("GET", CLASSES)["items"]
    default = [c["metadata"]["name"] for c in items if _is_default(c)]
    shared = [c["metadata"]["name"] for c in items if _is_shared(c["provisioner"])]
    if not items:
        fix = "make a PersistentVolume by hand and name its claim in workspace.claimName"
        yield Finding("storage classes", "note", "none: workspace.size cannot be served", fix)
    elif shared:
        seen = f"ReadWriteMany by {', '.join(shared)}; default: {', '.join(default) or 'none'}"
        yield Finding("storage classes", "good", seen)
    else:
        every = ", ".join(f"{c['metadata']['name']} ({c['provisioner']})" for c in items)
        fix = (
            "for jobs on several nodes install a CSI driver with shared volumes, such as NFS or "
            "CephFS; else workspace.accessMode: ReadWriteOnce with pods pinned to one node"
        )
        yield Finding("storage classes", "note", f"none known for ReadWriteMany: {every}", fix)


def claims(server: Server) -> Iterator[Finding]:
    """The claims of the namespace, as workspaces."""
    for claim in server.request("GET", CLAIM.path(server.namespace))["items"]:
        name, modes = claim["metadata"]["name"], claim["spec"].get("accessModes", [])
        phase = claim.get("status", {}).get("phase", "Pending")
        subject, seen = f"claim {name}", f"{', '.join(modes)}, {phase}"
        if phase == "Lost":
            yield Finding(subject, "bad", seen, f"restore its volume, or kubectl delete pvc {name}")
        elif modes == ["ReadWriteOncePod"]:
            fix = "make a claim with ReadWriteMany, and copy with 'pangu cp'"
            yield Finding(subject, "note", f"{seen}: no workspace, one pod alone uses it", fix)
        else:
            yield Finding(subject, "good", seen)


def gpus(server: Server) -> Iterator[Finding]:
    """Nodes that have GPUs to give."""
    nodes = server.request("GET", NODE.path())["items"]
    counts = {
        node["metadata"]["name"]: _count(
            node["status"].get("allocatable", {}).get(names.GPU_RESOURCE, "0")
        )
        for node in nodes
    }
    having = {name: count for name, count in counts.items() if count}
    if having:
        seen = (
            f"{sum(having.values())} {names.GPU_RESOURCE} on {len(having)} of {len(counts)} nodes"
        )
        yield Finding("GPU nodes", "good", seen)
        return
    fix = "install the NVIDIA device plugin, or ask for no GPUs: pods.resources: {}"
    yield Finding("GPU nodes", "note", f"no {names.GPU_RESOURCE} on {len(counts)} nodes", fix)


def _count(quantity: str) -> int:
    """A whole number as the API server writes it: a thousand is 1k."""
    return 1_000 * int(quantity[:-1]) if quantity.endswith("k") else int(quantity)


def _is_default(item: dict[str, dict[str, dict[str, str]]]) -> bool:
    return item["metadata"].get("annotations", {}).get(DEFAULT_MARK) == "true"


def _is_shared(provisioner: str) -> bool:
    return any(word in provisioner for word in SHARED)
