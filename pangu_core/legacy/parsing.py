"""The original command lines, read by the table of flags; slips of the README included."""

import argparse
import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pangu_core.errors import ConfigError
from pangu_core.legacy.flags import Command, Flag, flags_of

# What a backslash at the end of the README's last line becomes.
_STRAY: Final = ("\\", "", "\n")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The values of a command line."""

    values: dict[str, Any]
    given: frozenset[str]  # keys of the flags that were there

    def __getitem__(self, key: str) -> Any:
        """A flag's value, or its default."""
        return self.values[key]

    def require(self, key: str, why: str) -> Any:
        """A value that must be given.

        Raises:
            ConfigError: it is not.
        """
        if self.values[key] is None:
            flag = f"--{key.replace('_', '-')}"
            raise ConfigError(flag, seen="nothing", rule=why, fix=f"add {flag}")
        return self.values[key]


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are errors like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            self.prog, seen=message, rule="must be flags of the original", fix="see --help"
        )


def parse(command: Command, script: str, arguments: Sequence[str]) -> Options:
    """Read a command line and log a line for each flag without effect.

    Raises:
        ConfigError: an unknown flag, or a value of the wrong type.
    """
    flags = flags_of(command)
    parser = _Parser(prog=script, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags:
        _add(parser, command, flag)
    wanted = [argument for argument in arguments if argument not in _STRAY]
    found, unknown = parser.parse_known_args(wanted)
    if unknown:
        names = [name for flag in flags for name in flag.names]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], names, n=1)
        raise ConfigError(
            script,
            seen=unknown[0],
            rule="is no flag of the original",
            fix=f"did you mean {close[0]}?" if close else "see --help",
        )
    for flag in flags:
        if flag.key in found and command not in flag.used_by:
            logger.info("%s has no effect: %s", flag.name, flag.why)
    defaults = {flag.key: flag.default for flag in flags}
    return Options({**defaults, **vars(found)}, frozenset(vars(found)))


def _add(parser: argparse.ArgumentParser, command: Command, flag: Flag) -> None:
    # argparse reads % in help as a format.
    text = "" if command in flag.used_by else f"no effect: {flag.why}".replace("%", "%%")
    if flag.kind is None:
        parser.add_argument(*flag.names, dest=flag.key, action="store_true", help=text)
    else:
        count = "+" if flag.is_list else None
        parser.add_argument(*flag.names, dest=flag.key, type=flag.kind, nargs=count, help=text)
