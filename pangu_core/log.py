"""Logging, set up once per process by an entry point; the rank is part of the format."""

import logging
import sys


def set_up(who: str, level: int = logging.INFO) -> None:
    """Log to standard error as ``time who level message``."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format=f"%(asctime)s {who} %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
