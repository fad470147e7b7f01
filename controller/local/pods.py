"""From a pod's manifest to a local process: command, environment, folders. Pure.

What a pod would find at a mount path is a folder here; every value of its environment and command
that is such a path, or lies below one, is rewritten. HOME stays the user's own, so that what is
installed and cached there is found.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from controller.observe import REPLICA_INDEX
from k8s import names
from pangu_core.errors import ConfigError

LOCAL_ADDRESS: Final = "127.0.0.1"
TERMINATION_FILE: Final = "termination.json"
DEVICES_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
VOLUMES: Final = "volumes"
PYTHONS: Final = ("python", "python3")


@dataclass(frozen=True)
class Places:
    """Folders that stand for volumes."""

    workspace: Path
    configs: Path  # holds a folder for each ConfigMap
    pods: Path  # holds a folder for each pod


@dataclass(frozen=True)
class Wiring:
    """What is different on one machine."""

    endpoints: Mapping[str, str]  # "service:port" -> "127.0.0.1:port"
    ports: Mapping[str, str]  # variable that holds a port -> its local value
    num_processes: int  # that share the processors
    num_processors: int
    devices: tuple[str, ...] = ()  # GPUs of this machine, dealt out to pods by replica


@dataclass(frozen=True)
class PodLaunch:
    """A process to start."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path  # the pod's own
    termination_file: Path
    volumes: tuple[Path, ...]  # folders of its emptyDirs, to be made


def plan_pod(
    pod: Mapping[str, Any], *, places: Places, wiring: Wiring, environment: Mapping[str, str]
) -> PodLaunch:
    """The process that plays a pod's container.

    Args:
        pod: a Pod with one container.
        places: where its volumes are.
        wiring: addresses and ports.
        environment: what the process inherits, in place of whole Secrets too; the manifest's own
            variables win.

    Raises:
        ConfigError: the pod needs what only a cluster has, such as a ConfigMap of the user's.
    """
    spec = pod["spec"]
    container = spec["containers"][0]
    folder = places.pods / pod["metadata"]["name"]
    termination_file = folder / TERMINATION_FILE
    mounts = _mounts(spec, container, places, folder)
    mounts[container.get("terminationMessagePath", names.TERMINATION_PATH)] = termination_file
    own = _own_variables(pod, container, wiring)
    command = [*container.get("command", ()), *container.get("args", ())]
    words = [_localised(word, mounts) for word in command]
    if words and words[0] in PYTHONS:
        words[0] = sys.executable
    own |= _devices(pod, container, wiring.devices)
    inherited = {k: v for k, v in environment.items() if not k.startswith("PET_")}
    threads = max(1, wiring.num_processors // max(1, wiring.num_processes))
    return PodLaunch(
        command=tuple(words),
        environment={
            "OMP_NUM_THREADS": str(threads),
            **inherited,
            "PYTHONUNBUFFERED": "1",
            **{name: _localised(value, mounts) for name, value in own.items()},
        },
        folder=folder,
        termination_file=termination_file,
        volumes=tuple(path for path in mounts.values() if path.is_relative_to(folder / VOLUMES)),
    )


def _own_variables(
    pod: Mapping[str, Any], container: Mapping[str, Any], wiring: Wiring
) -> dict[str, str]:
    for source in container.get("envFrom", ()):
        if "secretRef" not in source:  # a Secret's variables come from the caller's own
            raise _cluster_only("envFrom", source)
    own = {}
    for variable in container.get("env", ()):
        name = variable["name"]
        if name == names.HOME_VARIABLE:
            continue
        value = _value(pod, variable)
        own[name] = wiring.ports.get(name, wiring.endpoints.get(value, value))
    return own


def _devices(
    pod: Mapping[str, Any], container: Mapping[str, Any], devices: tuple[str, ...]
) -> dict[str, str]:
    """The GPUs that a pod asks for, its own; with too few on this machine it sees them all."""
    limits = container.get("resources", {}).get("limits", {})
    count = int(limits.get(names.GPU_RESOURCE, 0))
    index = int(pod["metadata"].get("labels", {}).get(REPLICA_INDEX, 0))
    mine = devices[index * count : (index + 1) * count]
    return {DEVICES_VARIABLE: ",".join(mine)} if count and len(mine) == count else {}


def _value(pod: Mapping[str, Any], variable: Mapping[str, Any]) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    metadata = pod["metadata"]
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", "default"),
        "metadata.uid": metadata["uid"],
        "spec.nodeName": "localhost",
        "status.podIP": LOCAL_ADDRESS,
        "status.hostIP": LOCAL_ADDRESS,
    }
    path = source.get("fieldRef", {}).get("fieldPath")
    if path not in fields:
        raise _cluster_only(f"env {variable['name']}", source)
    return str(fields[path])


def _mounts(
    spec: Mapping[str, Any], container: Mapping[str, Any], places: Places, folder: Path
) -> dict[str, Path]:
    """Mount path -> local folder."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    mounts = {}
    for mount in container.get("volumeMounts", ()):
        source = _volume_folder(volumes[mount["name"]], places, folder)
        mounts[mount["mountPath"].rstrip("/")] = source / mount.get("subPath", "")
    return mounts


def _volume_folder(volume: Mapping[str, Any], places: Places, folder: Path) -> Path:
    if "persistentVolumeClaim" in volume:
        return places.workspace
    if "configMap" in volume:
        return places.configs / str(volume["configMap"]["name"])
    if "emptyDir" in volume:
        return folder / VOLUMES / str(volume["name"])
    raise _cluster_only(f"volume {volume['name']}", volume)


def _localised(value: str, mounts: Mapping[str, Path]) -> str:
    """A path below a mount as a path on this machine; the longest mount wins."""
    for mount in sorted(mounts, key=len, reverse=True):
        if value == mount or value.startswith(f"{mount}/"):
            return f"{mounts[mount]}{value[len(mount) :]}"
    return value


def _cluster_only(subject: str, seen: object) -> ConfigError:
    return ConfigError(
        subject,
        seen=seen,
        rule="exists on a cluster only",
        fix="leave it out of this file; set variables in the shell that calls 'pangu run'",
    )
