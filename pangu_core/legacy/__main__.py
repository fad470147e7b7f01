"""``pangu legacy NAME [original flags]``: finds the command by its old name or its old path."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Final, NoReturn

from pangu_core.entry import process
from pangu_core.errors import ConfigError

SCRIPTS: Final = (
    "generate_samples_Pangu",
    "split_full_model_into_mp_model",
    "merge_mp_partitions",
    "preprocess_data",
    "preprocess_data_pangu",
    "pretrain_gpt2",
    "change_MspCkpt_ToMgt",
)


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"Usage: pangu legacy NAME [original flags]\n\nNAME: {_listed()}\n")
        return 0
    script = script_of(arguments[0])
    if script not in SCRIPTS:
        return process.run("legacy", partial(refuse, arguments[0]))
    module = importlib.import_module(f"pangu_core.legacy.{script}")
    code: int = module.main(arguments[1:])
    return code


def script_of(name: str) -> str:
    """The command in a name or in a path: tools/NAME.py, and tool/NAME.py as the README slips."""
    return PurePosixPath(name).name.removesuffix(".py")


def refuse(name: str) -> NoReturn:
    """Say what there is instead.

    Raises:
        ConfigError: always.
    """
    close = difflib.get_close_matches(script_of(name), SCRIPTS, n=1)
    fix = f"did you mean {close[0]}?" if close else f"use one of {_listed()}"
    if name.endswith(".sh"):
        fix = "its settings are a job file: examples/legacy-*.yaml, for pangu run or kubectl"
    raise ConfigError("pangu legacy", seen=name, rule="is no command of the original", fix=fix)


def _listed() -> str:
    return ", ".join(SCRIPTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
