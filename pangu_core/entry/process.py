"""The one way out of every entry process: errors become messages and exit codes here."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from pydantic import BaseModel

from pangu_core import loading, log
from pangu_core.errors import EXIT_UNEXPECTED, ConfigError, PanguError, WorkspaceError
from pangu_core.messages import Termination

CONFIG_VARIABLE: Final = "PANGU_CONFIG"
DEBUG_VARIABLE: Final = "PANGU_DEBUG"
S = TypeVar("S", bound=BaseModel)
logger = logging.getLogger(__name__)


def run(verb: str, work: Callable[[], Termination | None]) -> int:
    """Run an entry point's work; return its exit code and leave the termination message.

    What a person can act on is printed as its four parts, anything else as a traceback.
    """
    log.set_up(verb)
    try:
        message = work() or Termination(code=0)
    except (PanguError, OSError) as error:
        message = failure(error)
        sys.stderr.write(f"error: {message.message}\n")
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
    except Exception as error:  # the border: nothing may pass without a message
        traceback.print_exc()
        message = failure(error)
    message.write()
    return message.code


def failure(error: BaseException) -> Termination:
    """The termination message of an error; what the operating system refused is a volume's."""
    known = as_workspace_error(error) if isinstance(error, OSError) else error
    return Termination(
        code=known.exit_code if isinstance(known, PanguError) else EXIT_UNEXPECTED,
        error=type(known).__name__,
        message=str(known),
        traceback="".join(traceback.format_exception(error)),
    )


def as_workspace_error(error: OSError) -> WorkspaceError:
    """A volume's failure in four parts: full, read-only, vanished."""
    return WorkspaceError(
        "workspace",
        seen=f"{error.filename or 'volume'}: {error.strerror or error}",
        rule="must accept reads and writes",
        fix="free space on the volume or mend its mount, then run again",
    )


def as_config_error(error: click.UsageError) -> ConfigError:
    """A wrong use of a command in four parts: the option or argument alone, not the whole line."""
    command = error.ctx.command_path if error.ctx else "pangu"
    see = f"see '{command} --help'"
    if isinstance(error, click.NoSuchOption):
        close = error.possibilities or ()
        fix = f"did you mean {' or '.join(close)}?" if close else see
        return ConfigError(command, seen=error.option_name, rule="is no option", fix=fix)
    parameter = getattr(error, "param", None)
    seen = parameter.get_error_hint(error.ctx) if parameter else "arguments"
    return ConfigError(command, seen=seen, rule=error.format_message().rstrip(".?"), fix=see)


def read_config(cls: type[S], path: str | None = None) -> S:
    """The pod's config file, named by ``path`` or by the environment.

    Raises:
        ConfigError: no file is named, or its content is wrong.
    """
    name = path or os.environ.get(CONFIG_VARIABLE)
    if not name:
        raise ConfigError(
            CONFIG_VARIABLE,
            seen="not set",
            rule="must name this stage's config file",
            fix="set it, or pass --config FILE",
        )
    documents: list[Any] = loading.read_yaml(Path(name))
    return loading.load(cls, documents[0] if documents else {})
