"""What the command line's cluster verbs share: the connection, and errors in our four parts."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import JOB, SERVICE, Kind
from pangu_core.errors import ConfigError, PanguError

Object = dict[str, Any]
# As kubectl's short name has it.
SERVICE_PREFIX: Final = "ps/"
F = TypeVar("F", bound=Callable[..., Any])
_CONTEXT: Final = click.option("--context", help="Context of the kubeconfig.")
_NAMESPACE: Final = click.option("-n", "--namespace", help="Namespace; default: the context's.")


def cluster_options(command: F) -> F:
    """The options --context and -n, as kubectl has them."""
    return _CONTEXT(_NAMESPACE(command))


@contextlib.contextmanager
def cluster(context: str | None, namespace: str | None) -> Iterator[Api]:
    """A connection; what the server refuses becomes an error that a person can act on.

    Raises:
        ConfigError: there is no kubeconfig, or the server refused what was asked.
        PanguError: the server cannot be reached.
    """
    api = Api.connect(context=context, namespace=namespace)
    try:
        yield api
    except ApiError as error:
        raise explained(error) from error
    finally:
        api.close()


def explained(error: ApiError) -> PanguError:
    """An error of the API server in four parts."""
    if not error.status:
        return PanguError(
            "cluster",
            seen=str(error),
            rule="must answer",
            fix="check 'kubectl cluster-info' and the kubeconfig's context",
        )
    if error.status in (401, 403):
        return ConfigError(
            "cluster",
            seen=str(error),
            rule="must allow it",
            fix="ask for the role pangu-edit in this namespace; 'pangu doctor' shows what is lacking",
        )
    return ConfigError(
        "cluster", seen=str(error), rule=error.reason or "refused", fix="see 'pangu doctor'"
    )


def get_job(api: Api, name: str) -> Object:
    """A PanguJob of the namespace.

    Raises:
        ConfigError: there is none of that name, or no such kind.
    """
    return _get(api, JOB, name)


def get_either(api: Api, name: str) -> Object:
    """The PanguJob of a name, else the PanguService; ``ps/NAME`` is the service in any case.

    Raises:
        ConfigError: there is neither, or no such kinds.
    """
    if name.startswith(SERVICE_PREFIX):
        return _get(api, SERVICE, name.removeprefix(SERVICE_PREFIX))
    try:
        return get_job(api, name)
    except ConfigError as error:
        try:
            return api.get(SERVICE, api.namespace, name)
        except ApiError:
            raise error from None


def _get(api: Api, kind: Kind, name: str) -> Object:
    try:
        return api.get(kind, api.namespace, name)
    except ApiError as error:
        if not error.is_missing:
            raise
        raise ConfigError(
            kind.name,
            seen=f"{api.namespace}/{name}",
            rule="must exist",
            fix="see 'pangu status'; if the kind is unknown, install the chart",
        ) from error


def kind_by_name(name: str) -> Any:
    """The kind of one of our objects."""
    return {JOB.name: JOB, SERVICE.name: SERVICE}[name]
