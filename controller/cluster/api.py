"""The API server: authenticated HTTP by the ``kubernetes`` package, objects as plain dicts.

The package's typed models are not used: they double the memory of a cache and hide fields of kinds
that they do not know. Importing the package takes half a second, so nothing imports this module
before it is needed.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream.ws_client import create_websocket, get_websocket_url
from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

from controller.cluster.kinds import Kind
from pangu_core.errors import ConfigError

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
EXEC_PROTOCOL: Final = "v5.channel.k8s.io"  # the first in which input can end; servers since 1.30
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
Object = dict[str, Any]
logger = logging.getLogger(__name__)


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @property
    def is_conflict(self) -> bool:
        """Somebody else wrote in between, or the object is there already."""
        return self.status == 409

    @property
    def is_missing(self) -> bool:
        """There is no such object, or no such kind."""
        return self.status == 404

    @property
    def is_expired(self) -> bool:
        """The resource version is too old to watch from."""
        return self.status == 410

    @property
    def is_refusal(self) -> bool:
        """Trying the same again cannot help: invalid, forbidden, or not acceptable."""
        return 400 <= self.status < 500 and self.status not in (404, 408, 409, 410, 429)


@dataclass(frozen=True)
class WatchEvent:
    """What a watch tells."""

    kind: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Api:
    """Requests to one API server; safe to use from several threads."""

    def __init__(self, connection: client.ApiClient, namespace: str) -> None:
        self._connection = connection
        self.namespace = namespace
        """The context's namespace, or the pod's own."""

    @classmethod
    def connect(cls, *, context: str | None = None, namespace: str | None = None) -> Self:
        """Find the cluster as kubectl does: KUBECONFIG, ~/.kube/config, or the pod's own account.

        Raises:
            ConfigError: there is no usable configuration.
        """
        settings = client.Configuration()
        settings.connection_pool_maxsize = 32
        try:
            found = _load(settings, context)
        except (ConfigException, OSError) as error:
            raise ConfigError(
                "kubeconfig",
                seen=str(error),
                rule="must name a cluster to talk to",
                fix="set KUBECONFIG, or give --context; 'kubectl cluster-info' must work",
            ) from error
        return cls(client.ApiClient(settings), namespace or found)

    def close(self) -> None:
        """Close all connections."""
        self._connection.rest_client.pool_manager.clear()

    # Objects

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object.

        Raises:
            ApiError: it cannot be had.
        """
        return self.request("GET", kind.path(namespace, name))

    def list(self, kind: Kind, namespace: str | None = None, **query: str) -> Object:
        """A list object: ``items`` and ``metadata.resourceVersion``.

        Raises:
            ApiError: it cannot be had.
        """
        return self.request("GET", kind.path(namespace), query)

    def create(self, kind: Kind, manifest: Object, namespace: str | None, **query: str) -> Object:
        """Create an object; returns it as it is stored.

        Raises:
            ApiError: refused; a conflict if it exists.
        """
        return self.request("POST", kind.path(namespace), query, manifest)

    def replace(self, kind: Kind, manifest: Object, part: str = "") -> Object:
        """Replace an object at the resource version that the manifest carries.

        Raises:
            ApiError: refused; a conflict if somebody wrote in between.
        """
        metadata = manifest["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"], part)
        return self.request("PUT", path, {}, manifest)

    def patch(
        self, kind: Kind, namespace: str | None, name: str, body: Object, part: str = ""
    ) -> Object:
        """Merge a patch; a ``metadata.resourceVersion`` in it makes it conditional.

        Raises:
            ApiError: refused.
        """
        return self.request("PATCH", kind.path(namespace, name, part), {}, body, MERGE_PATCH)

    def apply(self, kind: Kind, manifest: Object, *, manager: str, part: str = "") -> Object:
        """Server-side apply with force, as ``manager``.

        Raises:
            ApiError: refused.
        """
        metadata = manifest["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        path = kind.path(metadata.get("namespace"), metadata["name"], part)
        return self.request("PATCH", path, query, manifest, APPLY_PATCH)

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Foreground", "Background", "Orphan"] = "Background",
    ) -> Object | None:
        """Delete an object if it is still the one with that uid; None if it is gone already.

        Raises:
            ApiError: refused.
        """
        body: Object = {"propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            return self.request("DELETE", kind.path(namespace, name), {}, body)
        except ApiError as error:
            if error.is_missing or (error.is_conflict and uid is not None):
                return None
            raise

    def watch(
        self, kind: Kind, namespace: str | None, *, since: str, silence_seconds: float, **query: str
    ) -> Iterator[WatchEvent]:
        """Changes since a resource version, until the server ends the connection.

        Args:
            kind: what to watch.
            namespace: None for all.
            since: resource version of the list or event before.
            silence_seconds: a connection that says nothing for so long is taken for dead;
                bookmarks come about once a minute.
            query: selectors.

        Raises:
            ApiError: refused, or expired, or the connection broke (status 0).
        """
        asked = {
            "watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true", **query,
        }  # fmt: skip
        response = self._open("GET", kind.path(namespace), asked, None, JSON, silence_seconds)
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error_of(event["object"].get("code", 0), event["object"])
                yield WatchEvent(event["type"], event["object"])
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(0, "Disconnected", str(error)) from error
        finally:
            response.close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
    ) -> Object:
        """One request, one JSON answer.

        Raises:
            ApiError: the server refused or could not be reached.
        """
        response = self._open(method, path, query or {}, body, content_type, ANSWER_SECONDS)
        try:
            answer: Object = json.loads(response.data or b"{}")
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(0, "Disconnected", f"{method} {path}: {error}") from error
        return answer

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """One request with an answer that is not JSON, such as a pod's log.

        Raises:
            ApiError: the server refused or could not be reached.
        """
        response = self._open("GET", path, query or {}, None, JSON, ANSWER_SECONDS)
        return response.data.decode(errors="replace")

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[str]:
        """The lines of an answer that goes on, such as a followed log.

        Raises:
            ApiError: the server refused, or the connection broke.
        """
        response = self._open("GET", path, query, None, JSON, None)
        try:
            for line in _lines(response):
                yield line.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Disconnected", str(error)) from error
        finally:
            response.close()

    def websocket(self, path: str, query: Sequence[tuple[str, str]]) -> WebSocket:
        """Open a websocket to a command in a pod.

        Raises:
            ApiError: the server refused, or could not be reached.
        """
        serialized = self._connection.param_serialize("GET", path, auth_settings=["BearerToken"])
        url, sent = serialized[1], serialized[2]
        headers = {"sec-websocket-protocol": EXEC_PROTOCOL}
        headers |= {key.lower(): value for key, value in sent.items()}
        try:
            socket: WebSocket = create_websocket(
                self._connection.configuration, get_websocket_url(url, query), headers
            )
        except WebSocketBadStatusException as error:
            raise ApiError(error.status_code, "Refused", f"{path}: {error}") from error
        except (WebSocketException, OSError) as error:
            raise ApiError(0, "Unreachable", f"{path}: {error}") from error
        return socket

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        read_seconds: float | None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": JSON}
        if body is not None:
            headers["Content-Type"] = content_type
        # The bearer token is read anew where it rotates: that is what this call is for.
        serialized = self._connection.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            auth_settings=["BearerToken"],
        )
        url, sent = serialized[1], serialized[2]
        try:
            response: urllib3.BaseHTTPResponse = self._connection.rest_client.pool_manager.request(
                method,
                url,
                headers=sent,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                preload_content=False,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error}") from error
        if response.status >= 400:
            raise _refusal(response, method, path)
        return response


def _load(settings: client.Configuration, context: str | None) -> str:
    """Fill in the connection; returns the namespace that goes with it."""
    try:
        config.load_kube_config(context=context, client_configuration=settings)
        _, active = config.list_kube_config_contexts()
        if context:
            contexts, _ = config.list_kube_config_contexts()
            active = next(c for c in contexts if c["name"] == context)
        namespace: str = active["context"].get("namespace") or "default"
        return namespace
    except ConfigException:
        if context:
            raise
    config.load_incluster_config(client_configuration=settings)
    return POD_NAMESPACE.read_text(encoding="utf-8").strip()


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for data in response.stream(None):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line for line in lines if line)
    if rest:
        yield rest


def _refusal(response: urllib3.BaseHTTPResponse, method: str, path: str) -> ApiError:
    try:
        text = response.data
        status = json.loads(text)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        status = {}
    if not isinstance(status, dict) or "message" not in status:
        status = {"message": f"{method} {path}: HTTP {response.status}"}
    wait = response.headers.get("Retry-After", "")
    error = _error_of(response.status, status)
    error.retry_after = float(wait) if wait.isdecimal() else None
    return error


def _error_of(code: int, status: Object) -> ApiError:
    return ApiError(code, str(status.get("reason", "")), str(status.get("message", "")))
