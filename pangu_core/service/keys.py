"""API keys: from a mounted Secret, which may change while the service runs, or the environment."""

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pangu_core.errors import ConfigError

KEYS_FILE_VARIABLE: Final = "PANGU_API_KEYS_FILE"
KEYS_VARIABLE: Final = "PANGU_API_KEYS"
Signature = tuple[tuple[str, int, int, int], ...]
logger = logging.getLogger(__name__)


class Keyring:
    """The keys that are accepted; without any source, everyone is let in.

    Args:
        path: a file with a key on each line, or a folder of such files (a mounted Secret). It is
            read again when it changes.
        fixed: further keys.

    Raises:
        ConfigError: the path cannot be read, or there is no key in it.
    """

    def __init__(self, path: Path | None = None, fixed: Iterable[str] = ()) -> None:
        self._path = path
        self._fixed = frozenset(_digest(key) for key in fixed)
        self._signature: Signature | None = None
        self._digests: frozenset[bytes] = frozenset()
        if path is None:
            return
        try:
            self._read(path)
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(path, f"must be readable UTF-8 ({error})") from error
        if not self._digests:
            raise _unusable(path, "must hold at least one key")

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return self._path is None and not self._fixed

    def accepts(self, key: str) -> bool:
        """Whether a key is one of ours; the time taken does not tell how close it was."""
        if self._path is not None:
            self._refresh(self._path)
        digest = _digest(key)
        found = False
        for known in self._digests | self._fixed:
            found |= hmac.compare_digest(digest, known)
        return found or self.is_open

    def _refresh(self, path: Path) -> None:
        """Read again what has changed; keys that cannot be read leave the old ones in force."""
        try:
            if _signature(path) != self._signature:
                self._read(path)
                logger.info("API keys read again: %d", len(self._digests))
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("API keys cannot be read, the old ones stay: %s", error)

    def _read(self, path: Path) -> None:
        signature = _signature(path)
        lines = [line for each in _files(path) for line in each.read_text("utf-8").splitlines()]
        self._digests = frozenset(_digest(line.strip()) for line in lines if line.strip())
        self._signature = signature


def find_keys(path: str | None, environment: Mapping[str, str]) -> Keyring:
    """The keys in a file or folder, and those in the environment, parted by commas.

    Args:
        path: the file or folder; default: the one that the environment names.
        environment: of the process.

    Raises:
        ConfigError: keys are asked for, and there are none or they cannot be read.
    """
    named = path or environment.get(KEYS_FILE_VARIABLE)
    given = environment.get(KEYS_VARIABLE, "")
    fixed = [key.strip() for key in given.split(",") if key.strip()]
    if given and not fixed:
        raise _unusable(KEYS_VARIABLE, "must hold at least one key")
    return Keyring(Path(named) if named else None, fixed)


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder; a Secret's own bookkeeping begins with a dot."""
    if not path.is_dir():
        return [path]
    names = (each for each in path.iterdir() if not each.name.startswith("."))
    return sorted(each for each in names if each.is_file())


def _signature(path: Path) -> Signature:
    """Differs when a file does: a mounted Secret changes by new files behind the same names."""
    stats = [(each.name, each.stat()) for each in _files(path)]
    return tuple((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _unusable(source: Path | str, rule: str) -> ConfigError:
    fix = "name a file with one key a line, or ask for no keys"
    return ConfigError("API keys", seen=str(source), rule=rule, fix=fix)
