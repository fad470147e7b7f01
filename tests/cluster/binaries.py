"""The programs of the control plane, built from the Go modules below ``go/``.

    python -m tests.cluster.binaries

builds those that the cache lacks. The cache is keyed by the content of go.mod, go.sum and Go files;
tests only look into it, since a cold build takes minutes.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pangu_core.data.vocabulary import cache_folder

SOURCES: Final = Path(__file__).parent / "go"
KUBERNETES_PROGRAMS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
# Leaves the source folders as they are: a go.mod that would have to change is an error.
FLAGS: Final = ("-trimpath", "-mod=readonly", "-buildvcs=false")


@dataclass(frozen=True)
class Build:
    """One binary, by which names it is called, and what else its module brings."""

    folder: str  # below go/
    programs: tuple[str, ...]
    about_seconds: int  # on two cores, from nothing
    package: str = "."
    modfile: str = "go.mod"
    module: str = ""  # whose version is reported, and whose files are kept
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> joined paths

    @property
    def key(self) -> str:
        """Hash of everything that the binary follows from."""
        own = SOURCES / self.folder
        sums = self.modfile.replace(".mod", ".sum")
        paths = [own / self.modfile, own / sums, *sorted(own.glob("*.go"))]
        texts = [path.read_bytes() for path in paths]
        texts += [repr((self.programs, self.package, self.files, FLAGS)).encode()]
        return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]

    @property
    def version(self) -> str:
        """Version of the main module, such as 1.34.4."""
        text = (SOURCES / self.folder / self.modfile).read_text(encoding="utf-8")
        found = re.search(rf"{re.escape(self.module)} v(\S+)", text)
        assert found, f"{self.modfile} of {self.folder} does not require {self.module}"
        return found[1]

    @property
    def target(self) -> Path:
        """The folder of the cache that holds the result."""
        name = self.folder if self.modfile == "go.mod" else f"{self.folder}-{self.modfile[:-4]}"
        return cache_folder() / "cluster" / f"{name}-{self.key}"


_STAGES: Final = "kustomize/stage"
BUILDS: Final = {
    "etcd": Build(
        "etcd",
        ("etcd",),
        about_seconds=30,
        package="go.etcd.io/etcd/server/v3",
        module="go.etcd.io/etcd/server/v3",
    ),
    "kubernetes": Build(
        "kubernetes", KUBERNETES_PROGRAMS, about_seconds=240, module="k8s.io/kubernetes"
    ),
    "operator": Build(
        "operator",
        ("training-operator",),
        about_seconds=60,
        module="github.com/kubeflow/training-operator",
        files={
            "crd.yaml": ("manifests/base/crds/kubeflow.org_pytorchjobs.yaml",),
            "role.yaml": ("manifests/base/rbac/role.yaml",),
        },
    ),
    "kwok": Build(
        "kwok",
        ("kwok",),
        about_seconds=100,
        package="sigs.k8s.io/kwok/cmd/kwok",
        module="sigs.k8s.io/kwok",
        files={
            "stages.yaml": (
                f"{_STAGES}/node/fast/node-initialize.yaml",
                f"{_STAGES}/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
                f"{_STAGES}/pod/fast/pod-ready.yaml",
                f"{_STAGES}/pod/fast/pod-complete.yaml",
                f"{_STAGES}/pod/fast/pod-delete.yaml",
            )
        },
    ),
    "kubernetes-newest": Build(
        "kubernetes",
        KUBERNETES_PROGRAMS,
        about_seconds=240,
        modfile="newest.mod",
        module="k8s.io/kubernetes",
    ),
}


def find(program: str, *, newest: bool = False) -> Path:
    """A program's path; a ready-made one in ``KUBEBUILDER_ASSETS`` goes first.

    Args:
        program: such as ``etcd`` or ``kube-apiserver``.
        newest: of the newest Kubernetes.

    Raises:
        FileNotFoundError: it has not been built.
    """
    ready_made = _ready_made(program)
    if ready_made and not newest:
        return ready_made
    return _built(build_of(program, newest=newest), program)


def find_file(name: str, program: str) -> Path:
    """A file that the module of a program brings along, such as ``crd.yaml``."""
    return _built(build_of(program), name)


def build_of(program: str, *, newest: bool = False) -> Build:
    """The build that makes a program."""
    builds = [build for build in BUILDS.values() if program in build.programs]
    return builds[-1 if newest else 0]


def missing() -> str | None:
    """Why the control plane cannot run on this machine, in one line; None if it can."""
    absent = [name for name, build in BUILDS.items() if not _is_there(build)]
    if not absent:
        return None
    if shutil.which("go") is None:
        return f"{', '.join(absent)} of the control plane not built, and there is no Go to do it"
    return f"{', '.join(absent)} of the control plane not built; run make cluster-binaries"


def ensure(build: Build) -> None:
    """Build what the cache lacks, with a line on standard error before and after."""
    build.target.parent.mkdir(parents=True, exist_ok=True)
    with (build.target.parent / f"{build.target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: one builds, the other waits
        if build.target.is_dir():
            return
        start = time.monotonic()
        name = f"{build.programs[0]} {build.version}"
        _say(f"building {name} (about {build.about_seconds} s on two idle cores)")
        partial = build.target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a build that was interrupted
        partial.mkdir()
        _build(build, partial)
        partial.rename(build.target)
        _say(f"built {name} in {time.monotonic() - start:.0f} s")


def _build(build: Build, target: Path) -> None:
    binary = target / build.folder
    _go(build, "build", *FLAGS, "-ldflags", _linker_flags(build), "-o", str(binary), build.package)
    for program in build.programs:
        if program != binary.name:
            (target / program).symlink_to(binary.name)
    if build.files:
        module = Path(_go(build, "list", "-m", "-f", "{{.Dir}}", build.module).strip())
        for name, parts in build.files.items():
            texts = [(module / part).read_text(encoding="utf-8") for part in parts]
            (target / name).write_text("\n---\n".join(texts), encoding="utf-8")


def _linker_flags(build: Build) -> str:
    flags = ["-s", "-w"]
    if build.folder == "kubernetes":
        major, minor, _ = build.version.split(".")
        values = {"gitVersion": f"v{build.version}", "gitMajor": major, "gitMinor": minor}
        flags += [f"-X k8s.io/component-base/version.{k}={v}" for k, v in values.items()]
    return " ".join(flags)


def _go(build: Build, verb: str, *arguments: str) -> str:
    """Run ``go``, politely, since people work on the machine meanwhile."""
    command = ["nice", "-n", "10", "go", verb, f"-modfile={build.modfile}", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "GOFLAGS"}
    done = subprocess.run(
        command,
        cwd=SOURCES / build.folder,
        env=environment | {"CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _ready_made(program: str) -> Path | None:
    folder = os.environ.get(ASSETS_VARIABLE)
    return Path(folder) / program if folder and (Path(folder) / program).is_file() else None


def _is_there(build: Build) -> bool:
    return build.target.is_dir() or all(_ready_made(program) for program in build.programs)


def _built(build: Build, name: str) -> Path:
    path = build.target / name
    if not path.exists():
        raise FileNotFoundError(f"{path}: not built; run make cluster-binaries")
    return path


def _say(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Build everything; where that cannot be done, say so in a line: the tests name what is not run."""
    if shutil.which("go") is None:
        _say(missing() or "all is built")
        return 0
    for build in BUILDS.values():
        try:
            if not _is_there(build):
                ensure(build)
        except subprocess.CalledProcessError as error:
            _say(
                f"go failed for {build.folder} (exit code {error.returncode}), see above: not built"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
