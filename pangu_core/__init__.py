"""PanGu-alpha: tensor-parallel model, data, checkpoints, training and generation.

``load_model``, ``load_tokenizer`` and ``generate`` are the stable Python interface. They are
loaded on first use, so that the control plane can import this package without torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    if name in ("load_model", "load_tokenizer", "generate"):
        # Heavy, it brings torch; by name, since for the import contracts this package is light.
        return getattr(importlib.import_module("pangu_core.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
