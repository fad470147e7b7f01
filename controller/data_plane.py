"""The verbs that need torch: this process becomes the entry module, and never imports it."""

import os
import sys
from typing import Final, NoReturn

import click

# The verbs whose module is no entry.
MODULES: Final = {"legacy": "pangu_core.legacy"}


def _verb(name: str) -> click.Command:
    """A command that hands everything after its name, ``--help`` too, to the entry module."""

    @click.command(
        name,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> NoReturn:
        become(name, arguments)

    return command


def become(verb: str, arguments: tuple[str, ...]) -> NoReturn:
    """Replace this process by ``python -m pangu_core.entry.VERB``, or by the legacy commands."""
    sys.stdout.flush()
    command = [sys.executable, "-m", MODULES.get(verb, f"pangu_core.entry.{verb}"), *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - a fixed program, no shell


preprocess = _verb("preprocess")
convert = _verb("convert")
split = _verb("split")
merge = _verb("merge")
export = _verb("export")
verify = _verb("verify")
generate = _verb("generate")
serve = _verb("serve")
report = _verb("report")
legacy = _verb("legacy")
