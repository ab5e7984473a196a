"""Which key of the work queue is due when, and whose turn it is. Pure: told the time by its caller.

Where there is more to do than can be done, the lanes say what comes first, but nothing waits for
ever: a key's turn is when it is due plus its lane's patience, and no later key has an earlier one.
"""

from __future__ import annotations

import heapq
from enum import IntEnum
from typing import NamedTuple

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 60.0
PACE = 50.0
"""Keys a second that are worked on for `Lane.LATER`: what it brings may be read, but not all at
once, and each may be a request."""


class Lane(IntEnum):
    """How much haste there is."""

    NOW = 0
    """Somebody waits for it: messages for workers, or a user for what was just asked for."""
    SOON = 1
    LATER = 2
    """Numbers in a status, and looks that find nothing most of the time."""

    @property
    def patience(self) -> float:
        """Seconds by which keys with more haste, that are due later, may overtake."""
        return (0.0, 5.0, 30.0)[self]


class Entry(NamedTuple):
    """When a key is worked on: not before it is due, and in the order of turns."""

    turn: float
    due: float
    lane: Lane


Heap = list[tuple[float, str, Entry]]
"""Ordered by its first item."""


class Schedule:
    """Which key is due when, and whose turn it is.

    Args:
        pace: Keys a second of `Lane.LATER`.
    """

    def __init__(self, pace: float = PACE) -> None:
        self._entries: dict[str, Entry] = {}
        self._waiting: Heap = []
        self._due: dict[bool, Heap] = {False: [], True: []}
        """Those of `Lane.LATER`, and the others."""
        self._running: set[str] = set()
        self._failures: dict[str, int] = {}
        self._step = 1 / pace
        self._paced_until = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def running(self) -> int:
        """Keys being worked on."""
        return len(self._running)

    def depth(self, now: float) -> int:
        """Keys that are due and not begun. Any thread may ask: the page of metrics has its own."""
        return sum(entry.due <= now for entry in list(self._entries.values()))

    def add(self, key: str, when: float, lane: Lane = Lane.SOON) -> None:
        """Make `key` due at `when`, unless its turn would come earlier as it is."""
        entry, known = Entry(when + lane.patience, when, lane), self._entries.get(key)
        if known is None or entry.turn < known.turn:
            self._entries[key] = entry
            if key not in self._running:
                heapq.heappush(self._waiting, (when, key, entry))

    def pop(self, now: float) -> str | None:
        """Take the key whose turn it is; it counts as running until `done`."""
        self._ripen(now)
        open_lanes = [False] if now < self._paced_until else [False, True]
        heads = [(self._due[later][0], later) for later in open_lanes if self._due[later]]
        if not heads:
            return None
        (_, key, _), later = min(heads)
        heapq.heappop(self._due[later])
        if later:
            self._paced_until = max(now, self._paced_until) + self._step
        del self._entries[key]
        self._running.add(key)
        return key

    def done(self, key: str) -> None:
        """Finish a run; what was added meanwhile becomes due."""
        self._running.discard(key)
        if entry := self._entries.get(key):
            heapq.heappush(self._waiting, (entry.due, key, entry))

    def next_due(self) -> float | None:
        """When to `pop` next: until then there is nothing to take."""
        self._drop_stale()
        times = [heap[0][2].due for heap in (self._waiting, self._due[False]) if heap]
        if later := self._due[True]:
            times.append(max(later[0][2].due, self._paced_until))
        return min(times, default=None)

    def failed(self, key: str) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        # float() first: 2 ** 2000 would be a huge integer.
        return min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(count, 16))

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def _ripen(self, now: float) -> None:
        """Line up what is due."""
        self._drop_stale()
        while self._waiting and self._waiting[0][0] <= now:
            _, key, entry = heapq.heappop(self._waiting)
            heapq.heappush(self._due[entry.lane is Lane.LATER], (entry.turn, key, entry))
            self._drop_stale()

    def _drop_stale(self) -> None:
        """Drop from the heaps' heads what an `add` of the same key has replaced since."""
        for heap in (self._waiting, *self._due.values()):
            while heap:
                _, key, entry = heap[0]
                if key not in self._running and self._entries.get(key) is entry:
                    break
                heapq.heappop(heap)
