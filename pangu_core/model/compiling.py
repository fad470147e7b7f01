"""Compiled layers: what torch.compile needs on the machine, and how it is applied."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

import torch

from pangu_core.errors import ConfigError
from pangu_core.model.gpt import PanguModel

# Device type -> (variable that names the compiler, those looked for without it): what the
# compiler's back ends call, Inductor's own on a CPU and Triton on a GPU.
COMPILERS: Final = {"cpu": ("CXX", ("g++",)), "cuda": ("CC", ("gcc", "clang"))}


def compile_layers(model: PanguModel, device: torch.device) -> None:
    """Have each layer compiled at its first call.

    To be called before the model is spread over the data axis. Only ``forward`` is compiled: the
    hooks that fetch parameters stay around it, and parameters keep their names. All layers but
    the query layer run the same code, so the time does not grow with their number. There are no
    fallbacks: what cannot be compiled whole, or needs more variants than torch keeps, is an
    error, never a layer that quietly runs uncompiled.

    Raises:
        ConfigError: the machine lacks a compiler or Python's header files.
    """
    _check_tools(device)
    for layer in (*model.layers, model.query_layer):
        layer.forward = torch.compile(layer.forward, fullgraph=True, dynamic=False)


def _check_tools(device: torch.device) -> None:
    """Refuse now what would fail in the first step, and be taken for a fault of this machine."""
    variable, names = COMPILERS[device.type]
    wanted = (os.environ[variable],) if variable in os.environ else names
    if not any(shutil.which(name) for name in wanted):
        raise _lacking(f"no {' or '.join(wanted)}", fix=f"install one, or set {variable}")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise _lacking(f"no {header}", fix="install Python's header files")


def _lacking(what: str, *, fix: str) -> ConfigError:
    return ConfigError(
        "train.compile",
        seen=what,
        rule="compiling needs a C compiler and Python's header files beside torch",
        fix=f"{fix}, or leave train.compile out",
    )
