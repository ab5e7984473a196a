"""The messages of one partition that a worker still runs while others may own it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from flowbinding_worker.handover import BEAT_SECONDS, FENCE_SECONDS
from flowbinding_worker.handover.entry import Item, State


class Outgoing:
    """What a worker says about them, and until when it may act for them.

    The right to write results for these messages is a lease: it ends `FENCE_SECONDS` after the
    worker *sent* the last entry that was acknowledged, while a reader gives the worker up only
    `LEASE_SECONDS` after it *received* an entry that has not changed since. No clocks are compared.

    Args:
        items: What there is at the time; `delay_ms` of those that are FREE counts from then.
        clock: Steady seconds.
        alone: Whether nobody else can be writing in the same register.
    """

    def __init__(
        self, items: Mapping[int, Item], clock: Callable[[], float], *, alone: bool = True
    ) -> None:
        self._alone = alone
        self._items = dict(items)
        now = clock()
        self._due = {
            offset: now + item.delay_ms / 1000
            for offset, item in items.items()
            if item.state is State.FREE
        }
        self._clock = clock
        self._opened_at = now
        self._version = 1
        self._written = 0
        self._unanswered = 0
        self._sent_at = -math.inf
        self._fence = math.inf

    @property
    def covered(self) -> bool:
        """Whether others can know of these messages: one entry has been acknowledged."""
        return self._fence < math.inf

    @property
    def expired(self) -> bool:
        """Whether others may have given us up: nothing may be written for these messages."""
        return self._clock() >= self._fence

    @property
    def running(self) -> bool:
        """Whether any of them is not over."""
        return any(item.state is State.RUNNING for item in self._items.values())

    @property
    def settled(self) -> bool:
        """Whether all of them are over, and others can know it."""
        return self._written == self._version and not self.running

    @property
    def vain(self) -> bool:
        """Whether others may have given up what they read of it, and none of it was acknowledged.

        Nothing more may be written then, as after a lease; but the messages are still ours, because
        nobody gives a partition away before he is covered.
        """
        return not self.covered and self._clock() - self._opened_at >= FENCE_SECONDS

    @property
    def over(self) -> bool:
        """Whether it is not to be written any more, but for the word that closes the register."""
        return self.settled or self.vain or self.expired

    @property
    def closable(self) -> bool:
        """Whether others may be told that nothing follows.

        What was not answered may still be under way: then only time tells.
        """
        return self._alone and self.settled and not self.expired and not self._unanswered

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        if self.expired or self.vain:
            return False
        if self._written != self._version:
            return True
        return self.running and self._clock() - self._sent_at >= BEAT_SECONDS

    def done(self, offset: int) -> None:
        """The message's result or dead letter has been acknowledged."""
        self._set(offset, State.DONE)

    def free(self, offset: int, attempts: int, due: float) -> None:
        """The message needs another run, at `due` on our clock."""
        if self._set(offset, State.FREE, attempts):
            self._due[offset] = due

    def free_running(self) -> None:
        """All that is not over needs another run, at once. Fence its runs before."""
        for offset, item in list(self._items.items()):
            if item.state is State.RUNNING:
                self.free(offset, item.attempts, 0.0)

    def withdraw(self) -> None:
        """The partition is ours again: there is nothing to say to others."""
        self._items.clear()
        self._version += 1

    def say(self) -> tuple[int, Mapping[int, Item]]:
        """What to write now, and its version, to be given to `acknowledged`."""
        now = self._clock()
        self._sent_at = now
        self._unanswered += 1
        return self._version, {
            offset: replace(item, delay_ms=max(0, math.ceil((due - now) * 1000)))
            if (due := self._due.get(offset)) is not None
            else item
            for offset, item in self._items.items()
        }

    def acknowledged(self, version: int, sent_at: float) -> None:
        """What `say` gave at `sent_at` can be read by others now."""
        self._written = max(self._written, version)
        self._unanswered -= 1
        # An answer that comes too late revives nothing: by then others may run the messages, or
        # they are told of in another register.
        if not (self.expired or self.vain):
            self._fence = sent_at + FENCE_SECONDS

    def _set(self, offset: int, state: State, attempts: int = 0) -> bool:
        item = self._items.get(offset)
        if item is None or item.state is not State.RUNNING:
            return False
        self._items[offset] = Item(item.fingerprint, state, attempts)
        self._version += 1
        return True
