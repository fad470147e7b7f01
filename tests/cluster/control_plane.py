"""A real control plane on this machine: etcd, API server, controllers, the training operator.

    python -m tests.cluster.control_plane

keeps one until Ctrl-C. There is no kubelet: pods do what ``stand_in`` says, or what KWOK does.
"""

import contextlib
import json
import signal
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import click

from pangu_core.rendezvous.ports import free_port
from tests.cluster import binaries
from tests.cluster.access import Cluster, certificate_user, eventually, write_kubeconfig
from tests.cluster.certificates import Authority
from tests.cluster.processes import Processes

HOST: Final = "127.0.0.1"
SERVICE_ADDRESSES: Final = "10.96.0.0/16"
KUBERNETES_SERVICE: Final = "10.96.0.1"  # the first of them
ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
OPERATOR: Final = "training-operator"
KWOK: Final = "kwok"
DEFAULT_COMPONENTS: Final = (CONTROLLER_MANAGER, OPERATOR)
ALL_COMPONENTS: Final = (CONTROLLER_MANAGER, OPERATOR, SCHEDULER, KWOK)
# Component -> user and groups. The operator has just the rights of its own ClusterRole.
USERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    CONTROLLER_MANAGER: ("system:kube-controller-manager", ()),
    SCHEDULER: ("system:kube-scheduler", ()),
    OPERATOR: ("training-operator", ()),
    KWOK: ("kwok", ("system:masters",)),
}
KWOK_NODES: Final = "kwok.x-k8s.io/node=fake"  # an annotation of the nodes that KWOK plays
START_SECONDS: Final = 60.0
AUDIT_POLICY: Final = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""
OPERATOR_BINDING: Final = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: training-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: training-operator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: training-operator}]
"""


class ControlPlane(Cluster):
    """A context manager: everything runs and answers within it, and ends with it."""

    def __init__(
        self,
        folder: Path,
        *,
        components: Iterable[str] = DEFAULT_COMPONENTS,
        newest: bool = False,
        audit: bool = False,
        admission_plugins: Iterable[str] = (),
        manifests: Iterable[Path] = (),
        flags: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: for state and logs; a temporary one.
            components: those to run besides etcd and API server.
            newest: the newest Kubernetes instead of the usual one.
            audit: keep the log that ``audit_events`` reads.
            admission_plugins: those to add to the API server's own, such as
                ``OwnerReferencesPermissionEnforcement``.
            manifests: files to apply before any controller starts, CRDs above all: a garbage
                collector that meets a new kind later takes up to 30 s to notice.
            flags: more flags by component.
        """
        self._components, self._newest, self._audit = tuple(components), newest, audit
        self._plugins, self._manifests = tuple(admission_plugins), tuple(manifests)
        self._flags = {name: tuple(more) for name, more in (flags or {}).items()}
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority(folder)
        self._tokens = self._authority.signing_key("service-accounts")
        self._serving = self._authority.server(
            API_SERVER,
            addresses=(HOST, KUBERNETES_SERVICE),
            hosts=("localhost", "kubernetes.default.svc"),
        )
        admin = self._authority.client("pangu-test-admin", ("system:masters",))
        self._ports = {name: free_port() for name in (ETCD, "peer", API_SERVER, *ALL_COMPONENTS)}
        self._context = ssl.create_default_context(cafile=str(self._authority.pair.certificate))
        self._context.load_cert_chain(admin.certificate, admin.key)
        kubeconfig = self._kubeconfig(folder / "admin.kubeconfig", certificate_user(admin))
        super().__init__(
            kubeconfig, folder=folder, kubectl=str(binaries.find("kubectl", newest=newest))
        )

    def __enter__(self) -> Self:
        self._processes = Processes(self.folder)
        try:
            self._launch(ETCD)
            self.start(API_SERVER)
            self._prepare()
            for name in self._components:
                self._launch(name)
            for name in self._components:
                self._wait_for(name)
        except BaseException:
            self._processes.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._processes.close()

    @property
    def version(self) -> str:
        """The version of Kubernetes that was built."""
        return binaries.build_of(API_SERVER, newest=self._newest).version

    def start(self, name: str) -> None:
        """Start a component and wait until it is ready."""
        self._launch(name)
        self._wait_for(name)

    def stop(self, name: str, *, gently: bool = False) -> None:
        """End a component by SIGKILL, or ``gently``; what it holds in etcd stays."""
        self._processes.stop(name, gently=gently)

    def restart(self, name: str, *, gently: bool = False) -> None:
        """End a component, start it again and wait until it is ready."""
        self.stop(name, gently=gently)
        self.start(name)

    @contextlib.contextmanager
    def running(self, *names: str) -> Iterator[None]:
        """Have components run that do not by default, such as the scheduler."""
        for name in names:
            self.start(name)
        try:
            yield
        finally:
            for name in names:
                self.stop(name)

    def log(self, name: str) -> str:
        """What a component has written so far."""
        return self._processes.log(name).read_text(encoding="utf-8", errors="replace")

    def audit_events(self) -> list[dict[str, Any]]:
        """Every request that was answered so far, at level Metadata; needs ``audit``."""
        lines = (self.folder / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def user(self, name: str, groups: Iterable[str] = ()) -> Path:
        """The kubeconfig of a user, known by a certificate."""
        pair = self._authority.client(name, groups)
        return self.write_kubeconfig(name.replace(":", "-"), certificate_user(pair))

    def _launch(self, name: str) -> None:
        makers: dict[str, Callable[[], list[str]]] = {
            ETCD: self._etcd,
            API_SERVER: self._api_server,
            CONTROLLER_MANAGER: self._controller_manager,
            SCHEDULER: self._scheduler,
            OPERATOR: self._operator,
            KWOK: self._kwok,
        }
        program = binaries.find(name, newest=self._newest)
        self._processes.start(name, [str(program), *makers[name](), *self._flags.get(name, ())])

    def _wait_for(self, name: str) -> None:
        path = {ETCD: "health", API_SERVER: "readyz"}.get(name, "healthz")
        scheme = "http" if name in (ETCD, OPERATOR, KWOK) else "https"
        context = self._context
        if name in (CONTROLLER_MANAGER, SCHEDULER):  # they sign their own
            context = ssl._create_unverified_context()
        url = f"{scheme}://{HOST}:{self._ports[name]}/{path}"
        self._processes.wait_until(name, lambda: _answers(url, context), seconds=START_SECONDS)

    def _prepare(self) -> None:
        """Apply what has to be there before the controllers."""
        paths = list(self._manifests)
        if OPERATOR in self._components:
            binding = self.folder / "operator-binding.yaml"
            binding.write_text(OPERATOR_BINDING, encoding="utf-8")
            files = [binaries.find_file(name, OPERATOR) for name in ("crd.yaml", "role.yaml")]
            paths = [*files, binding, *paths]
        if paths:
            # Server-side, since the operator's CRD does not fit into an annotation.
            files = [f"--filename={path}" for path in paths]
            applied = self.kubectl("apply", "--server-side", "--output=name", *files).split()
            for name in applied:
                if name.startswith("customresourcedefinition"):
                    eventually(partial(self._is_established, name.partition("/")[2]))

    def _is_established(self, crd: str) -> bool:
        found = self.request(
            "GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}"
        )
        conditions = found["status"].get("conditions") or []
        return any((c["type"], c["status"]) == ("Established", "True") for c in conditions)

    def _kubeconfig(self, path: Path, user: Mapping[str, str]) -> Path:
        server = f"https://{HOST}:{self._ports[API_SERVER]}"
        return write_kubeconfig(
            path, server=server, authority=self._authority.pair.certificate, user=user
        )

    def _kubeconfig_of(self, component: str) -> Path:
        path = self.folder / f"{component}.kubeconfig"
        if not path.exists():
            user, groups = USERS[component]
            self._kubeconfig(path, certificate_user(self._authority.client(user, groups)))
        return path

    def _etcd(self) -> list[str]:
        own, peer = (f"http://{HOST}:{self._ports[name]}" for name in (ETCD, "peer"))
        return [
            f"--data-dir={self.folder / ETCD}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]

    def _api_server(self) -> list[str]:
        flags = [
            f"--etcd-servers=http://{HOST}:{self._ports[ETCD]}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={self._ports[API_SERVER]}",
            "--endpoint-reconciler-type=none",  # it refuses to publish a loopback address
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self._authority.pair.certificate}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._tokens}",
            f"--service-account-signing-key-file={self._tokens}",
            f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
            "--authorization-mode=Node,RBAC",
        ]
        if CONTROLLER_MANAGER not in self._components:
            # Without it no namespace gets its default ServiceAccount, and no pod would be let in.
            flags.append("--disable-admission-plugins=ServiceAccount")
        if self._plugins:
            flags.append(f"--enable-admission-plugins={','.join(self._plugins)}")
        if self._audit:
            policy = self.folder / "audit-policy.yaml"
            policy.write_text(AUDIT_POLICY, encoding="utf-8")
            log = self.folder / "audit.jsonl"
            flags += [f"--audit-policy-file={policy}", f"--audit-log-path={log}"]
        return flags

    def _controller_manager(self) -> list[str]:
        return [
            *self._serving_flags(CONTROLLER_MANAGER),
            f"--service-account-private-key-file={self._tokens}",
            f"--root-ca-file={self._authority.pair.certificate}",
            "--use-service-account-credentials",
        ]

    def _scheduler(self) -> list[str]:
        return self._serving_flags(SCHEDULER)

    def _serving_flags(self, name: str) -> list[str]:
        kubeconfig = self._kubeconfig_of(name)
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={HOST}",
            f"--secure-port={self._ports[name]}",
            f"--cert-dir={self.folder / name}",
            "--leader-elect=false",
        ]

    def _operator(self) -> list[str]:
        return [
            f"--kubeconfig={self._kubeconfig_of(OPERATOR)}",
            f"--health-probe-bind-address={HOST}:{self._ports[OPERATOR]}",
        ]

    def _kwok(self) -> list[str]:
        return [
            f"--kubeconfig={self._kubeconfig_of(KWOK)}",
            f"--config={binaries.find_file('stages.yaml', KWOK)}",
            f"--server-address={HOST}:{self._ports[KWOK]}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={KWOK_NODES}",
            "--node-lease-duration-seconds=40",
        ]


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


@click.command()
@click.option("--newest", is_flag=True, help="The newest Kubernetes instead of the usual one.")
@click.option(
    "--with", "more", multiple=True, type=click.Choice([SCHEDULER, KWOK]), help="Run this too."
)
def main(newest: bool, more: tuple[str, ...]) -> None:
    """Keep a control plane until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has them ignored
        signal.signal(number, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="pangu-cluster-") as folder,
        contextlib.suppress(KeyboardInterrupt),
        ControlPlane(Path(folder), newest=newest, components=(*DEFAULT_COMPONENTS, *more)) as plane,
    ):
        click.echo(f"Kubernetes {plane.version}; logs in {folder}; Ctrl-C ends it. For a shell:")
        click.echo(f"export KUBECONFIG={plane.kubeconfig}")
        signal.pause()


if __name__ == "__main__":
    main()
