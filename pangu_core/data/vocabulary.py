"""Where the published vocabulary file lies: named, in the environment, or in the cache folder."""

import os
from pathlib import Path
from typing import Final

from pangu_core.errors import ConfigError

TOKENIZER_VARIABLE: Final = "PANGU_TOKENIZER"
VOCABULARY_NAME: Final = "vocab.model"
# Every published copy of the PanGu-alpha vocabulary has these very bytes.
PUBLISHED_SHA256: Final = "18857e86783e50cfcaa0bc3c043fb4e9b5f240b885d2870ea593ee69b44f7a3a"


def cache_folder() -> Path:
    """The folder for fetched data: ``pangu`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (base if base.is_absolute() else Path.home() / ".cache") / "pangu"


def find_vocabulary(path: str | Path | None = None) -> Path:
    """The vocabulary file: ``path``, else ``PANGU_TOKENIZER``, else the cache folder's.

    Args:
        path: the file, or a folder that holds ``vocab.model`` (a checkpoint does).

    Raises:
        ConfigError: there is no such file.
    """
    variable = os.environ.get(TOKENIZER_VARIABLE, "")
    if path is not None:
        subject, named = "tokenizer", Path(path)
    elif variable:
        subject, named = TOKENIZER_VARIABLE, Path(variable)
    else:
        subject, named = "tokenizer", cache_folder()
    found = named / VOCABULARY_NAME if named.is_dir() else named
    if not found.is_file():
        raise ConfigError(
            subject,
            seen=str(named),
            rule=f"must be a vocabulary file or a folder with {VOCABULARY_NAME}",
            fix="run 'make setup' or 'python tools/fetch_data.py' to fetch the published one",
        )
    return found
