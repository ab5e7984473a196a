"""Finds out that a watch is dead although it looks alive. Pure.

kopf's watches have hung before (its issues 957, 1145, 1276), and a quiet watch cannot be told from
a dead one by its silence. So now and then everything is listed: what the list shows and the watch
has still not brought by the next time, the watch has missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowbinding_operator.store import Cache, Object, version


class Watchdog:
    """Compares lists with what one watch has brought.

    Args:
        kind: For the message.
        cache: What the watch has brought.
        key: Key of an object in `cache`; None for one that is not ours.
    """

    def __init__(self, kind: str, cache: Cache, key: Callable[[Object], str | None]) -> None:
        self._kind = kind
        self._cache = cache
        self._key = key
        self._suspects: set[tuple[str, int]] = set()
        self.problem = ""
        """What the watch has missed; empty while all is well."""

    def compare(self, listed: list[Object]) -> None:
        """Compare a list with the cache."""
        newest = {key: version(item) for item in listed if (key := self._key(item)) is not None}
        missed = self._missed(newest)
        overdue = missed & self._suspects
        self._suspects = missed
        example = min(overdue, default=("", 0))[0]
        self.problem = f"the watch of {self._kind} has missed {example}" if overdue else ""

    def _missed(self, newest: Mapping[str, int]) -> set[tuple[str, int]]:
        changed = {
            (key, seen) for key, latest in newest.items() if (seen := self._seen(key)) < latest
        }
        deleted = {(key, self._seen(key)) for key in self._cache.all_keys() if key not in newest}
        return changed | deleted

    def _seen(self, key: str) -> int:
        item = self._cache.get(key)
        return -1 if item is None else version(item)
