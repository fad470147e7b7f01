"""PanGu-alpha: tensor-parallel model, data, checkpoints, training and generation.

``load_model``, ``load_tokenizer`` and ``generate`` are the stable Python interface. They are
loaded on first use, so that the control plane can import this package without torch.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    if name in ("load_model", "load_tokenizer", "generate"):
        from pangu_core import api  # heavy: brings torch

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
