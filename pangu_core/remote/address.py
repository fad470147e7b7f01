"""Addresses such as s3://bucket/folder/*.txt: which part is a folder, which a name or pattern. Pure."""

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote

WEB: Final = ("http", "https")
_WILDCARD: Final = re.compile(r"[*?\[]")
_USER: Final = re.compile(r"(?<=://)[^/@]*@")


def is_remote(source: str) -> bool:
    """Whether a source is an address, not a path in the workspace."""
    return "://" in source


def scheme(url: str) -> str:
    """What an address begins with: s3, https, ..."""
    return url.partition("://")[0]


def split(url: str) -> tuple[str, str]:
    """The folder of an address and what follows: a name, or a pattern from its first wildcard on.

    What follows is also the path below the folder that an address is fetched to. On the web
    nothing is a wildcard, and the query is no part of the name.
    """
    kind, _, path = url.partition("://")
    if kind in WEB:
        folder, _, name = path.partition("?")[0].rstrip("/").rpartition("/")
        return f"{kind}://{folder}", unquote(name)
    parts = path.rstrip("/").split("/")
    last = len(parts) - 1
    first = next((i for i, part in enumerate(parts[:last]) if _WILDCARD.search(part)), last)
    return f"{kind}://{'/'.join(parts[:first])}", "/".join(parts[first:])


def has_wildcards(url: str) -> bool:
    """Whether an address means every file that matches it."""
    return scheme(url) not in WEB and bool(_WILDCARD.search(url))


def is_whole(url: str) -> bool:
    """Whether an address names a host or bucket and, safely, something in it."""
    folder, name = split(url)
    parts = PurePosixPath(f"{folder.partition('://')[2]}/{name}").parts
    return len(parts) > 1 and bool(name) and not {".", "..", "/"}.intersection(parts)


def shown(url: str) -> str:
    """An address without what may be a secret: the user before the host, and the query."""
    return _USER.sub("", url.partition("?")[0] if scheme(url) in WEB else url)
