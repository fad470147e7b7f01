"""The vocabulary that ``--vocab-file`` names: the original gives a path without its ending."""

import logging
from pathlib import Path

from pangu_core.data.vocabulary import find_vocabulary

logger = logging.getLogger(__name__)


def locate(prefix: str | None) -> Path:
    """PREFIX.model, or the published vocabulary where there is no such file.

    Raises:
        ConfigError: the published one was not fetched.
    """
    if prefix is None:
        return find_vocabulary()
    for path in (Path(f"{prefix}.model"), Path(prefix)):
        if path.is_file() and path.suffix == ".model":
            return path
    found = find_vocabulary()
    logger.info("there is no %s.model; the published vocabulary is used: %s", prefix, found)
    return found
