"""What was last seen of every object, indexed by the key of the job or service it belongs to.

Reflectors write what they hear, workers what the server answered to their own writes, so that the
next look sees them. Of two versions of an object the later one stays. Resource versions are
compared as numbers: the API promises that since 1.35, and etcd's always were.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from controller.cluster.kinds import Kind

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind of the owner, namespace, name
# Tombstones: a late word of an object that was deleted must not bring it back.
REMOVED_LIMIT: Final = 10_000


class Cache:
    """Thread-safe.

    Args:
        key_of: the key under which an object belongs; None for those that nobody asks for.
        on_change: told the key whenever anything under it changed.
    """

    def __init__(
        self, key_of: Callable[[Object], Key | None], on_change: Callable[[Key], None]
    ) -> None:
        self._key_of, self._on_change = key_of, on_change
        self._lock = threading.Lock()
        self._objects: dict[Kind, dict[str, Object]] = defaultdict(dict)  # by uid
        self._by_key: dict[Key, dict[str, Object]] = defaultdict(dict)
        self._removed: dict[str, None] = {}

    def under(self, key: Key) -> list[Object]:
        """Every object that belongs to a job or service, itself included; do not change them."""
        with self._lock:
            return list(self._by_key.get(key, {}).values())

    def all(self, kind: Kind) -> list[Object]:
        """Every object of a kind; do not change them."""
        with self._lock:
            return list(self._objects[kind].values())

    def put(self, kind: Kind, item: Object) -> None:
        """Take in an object, unless a later version of it is known or it is known to be gone."""
        uid = item["metadata"]["uid"]
        with self._lock:
            if uid in self._removed or not _is_news(self._objects[kind].get(uid), item):
                return
            self._store(kind, item)
        self._tell(item)

    def remove(self, kind: Kind, item: Object) -> None:
        """Forget an object."""
        uid = item["metadata"]["uid"]
        with self._lock:
            self._note_removed(uid)
            known = self._objects[kind].pop(uid, None)
            if known is not None:
                self._unindex(known)
        self._tell(item)

    def replace(self, kind: Kind, items: Iterable[Object], namespace: str | None = None) -> None:
        """Take a new list, of one namespace or of all, for the truth: the rest is gone."""
        fresh = {item["metadata"]["uid"]: item for item in items}
        with self._lock:
            gone = [
                item
                for uid, item in self._objects[kind].items()
                if uid not in fresh and namespace in (None, item["metadata"].get("namespace"))
            ]
            for item in gone:
                del self._objects[kind][item["metadata"]["uid"]]
                self._unindex(item)
            changed = [o for uid, o in fresh.items() if _is_news(self._objects[kind].get(uid), o)]
            for item in changed:
                self._store(kind, item)
        for item in (*gone, *changed):
            self._tell(item)

    def _store(self, kind: Kind, item: Object) -> None:
        uid = item["metadata"]["uid"]
        known = self._objects[kind].get(uid)
        if known is not None:
            self._unindex(known)  # its labels may have changed
        self._objects[kind][uid] = item
        key = self._key_of(item)
        if key is not None:
            self._by_key[key][uid] = item

    def _unindex(self, item: Object) -> None:
        key = self._key_of(item)
        if key is not None:
            self._by_key[key].pop(item["metadata"]["uid"], None)
            if not self._by_key[key]:
                del self._by_key[key]

    def _note_removed(self, uid: str) -> None:
        self._removed[uid] = None
        if len(self._removed) > REMOVED_LIMIT:
            del self._removed[next(iter(self._removed))]

    def _tell(self, item: Object) -> None:
        key = self._key_of(item)
        if key is not None:
            self._on_change(key)


def _is_news(known: Object | None, item: Object) -> bool:
    if known is None:
        return True
    old, new = known["metadata"]["resourceVersion"], item["metadata"]["resourceVersion"]
    if old.isdecimal() and new.isdecimal():
        return int(new) > int(old)
    return bool(new != old)
