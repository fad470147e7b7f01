"""What tests do with a cluster, be it one of their own or the one that ``KUBECONFIG`` names."""

import base64
import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import urllib3
import yaml
from kubernetes import client, config

from tests.cluster import binaries
from tests.cluster.certificates import KeyPair

T = TypeVar("T")
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


class Cluster:
    """Access to a cluster by its administrator's kubeconfig."""

    def __init__(self, kubeconfig: Path, *, folder: Path, kubectl: str = "kubectl") -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder  # for further kubeconfigs
        self._kubectl = kubectl
        self._numbers = itertools.count(1)

    @cached_property
    def api(self) -> client.ApiClient:
        """The official client."""
        api: client.ApiClient = config.new_client_from_config(str(self.kubeconfig))
        return api

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl, with ``text`` as its standard input; returns its standard output.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        own = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kubectl-cache'}")
        command = [self._kubectl, *own, *arguments]
        environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def request(self, method: str, path: str, body: object = None, *, kind: str = JSON) -> Any:
        """One request with JSON both ways, for any kind of object.

        Args:
            method: such as ``PATCH``.
            path: such as ``/apis/kubeflow.org/v1/namespaces/x/pytorchjobs``.
            body: the object to send.
            kind: the media type of ``body``, such as ``MERGE_PATCH``.

        Raises:
            client.ApiException: the API server refused.
        """
        response = self.open(method, path, body, kind=kind)
        text = response.data.decode()
        if response.status >= 300:
            raise client.ApiException(status=response.status, reason=text)
        return json.loads(text)

    def open(
        self, method: str, path: str, body: object = None, *, kind: str = JSON
    ) -> urllib3.BaseHTTPResponse:
        """Like ``request``, but the answer is still to be read, such as a watch's lines."""
        headers = {"Content-Type": kind, "Accept": JSON}
        _, url, sent, _, _ = self.api.param_serialize(
            method, path, header_params=headers, auth_settings=["BearerToken"]
        )
        response: urllib3.BaseHTTPResponse = self.api.rest_client.pool_manager.request(
            method,
            url,
            headers=sent,
            body=None if body is None else json.dumps(body),
            preload_content=False,
            retries=False,
        )
        return response

    @contextlib.contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A new namespace; at the end it is asked to go, and nobody waits for it."""
        metadata = {"generateName": "pangu-test-", "labels": dict(labels or {})}
        made = self.request("POST", "/api/v1/namespaces", {"metadata": metadata})
        name: str = made["metadata"]["name"]
        try:
            yield name
        finally:
            self.request("DELETE", f"/api/v1/namespaces/{name}")

    def service_account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a ServiceAccount, which is made if there is none."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        with contextlib.suppress(client.ApiException):
            self.request("POST", path, {"metadata": {"name": name}})
        return self.write_kubeconfig(
            f"{namespace}-{name}", {"token": self.token(namespace, name)}, namespace=namespace
        )

    def token(self, namespace: str, service_account: str, *, seconds: int = 3_600) -> str:
        """A token of a ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        answer = self.request("POST", path, {"spec": {"expirationSeconds": seconds}})
        token: str = answer["status"]["token"]
        return token

    def write_kubeconfig(
        self, name: str, user: Mapping[str, str], *, namespace: str = "default"
    ) -> Path:
        """A kubeconfig for this cluster and another user."""
        settings = self.api.configuration
        authority = Path(settings.ssl_ca_cert)
        path = self.folder / f"{name}-{next(self._numbers)}.kubeconfig"
        return write_kubeconfig(
            path, server=settings.host, authority=authority, user=user, namespace=namespace
        )


def eventually(look: Callable[[], T], *, seconds: float = 30.0) -> T:
    """What ``look()`` returns as soon as it is true; objects that are not there yet do no harm.

    Raises:
        AssertionError: it was not true in time; with what it was at last.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen: T | client.ApiException
        try:
            seen = look()
            if seen:
                return seen
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            seen = error
        assert time.monotonic() < deadline, f"at last it was {seen!r}"
        time.sleep(0.05)


def given_cluster(folder: Path) -> Cluster | None:
    """The cluster that ``KUBECONFIG`` names, if it does."""
    path = os.environ.get("KUBECONFIG")
    return Cluster(Path(path), folder=folder) if path else None


def write_kubeconfig(
    path: Path, *, server: str, authority: Path, user: Mapping[str, str], namespace: str = "default"
) -> Path:
    """Write a kubeconfig of one user for one cluster; it holds everything, no other file is read.

    Args:
        path: where to.
        server: the API server's address.
        authority: the PEM file of who signed its certificate.
        user: the user's part, see ``certificate_user``, or ``{"token": ...}``.
        namespace: the context's own.
    """
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": server, "certificate-authority-data": _encoded(authority)}}],
        "users": [{"name": "test", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {
            "cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }  # fmt: skip
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def certificate_user(pair: KeyPair) -> dict[str, str]:
    """The part of a kubeconfig that says who one is by a certificate."""
    return {
        "client-certificate-data": _encoded(pair.certificate),
        "client-key-data": _encoded(pair.key),
    }


def built_kubectl() -> str:
    """Our own kubectl where it is built, else the machine's."""
    with contextlib.suppress(FileNotFoundError):
        return str(binaries.find("kubectl"))
    return "kubectl"


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
