"""What earlier owners of a partition say about its messages, as its owner reads it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple, Protocol

from flowbinding_worker.handover import LEASE_SECONDS
from flowbinding_worker.handover.entry import Entry, State


class Turn(Enum):
    """What to do with a message.

    READY: run it when its time has come.
    HELD: somebody else runs it.
    DONE: nothing; it needs no run.
    """

    READY = "ready"
    HELD = "held"
    DONE = "done"


class Fate(NamedTuple):
    """What to do with a message.

    Attributes:
        turn: Whether to run it.
        attempts: Runs that it has had already.
        due: When it may run, in seconds of the reader's clock; 0 for at once.
    """

    turn: Turn
    attempts: int = 0
    due: float = 0.0


class Offsets(Protocol):
    """What a reader knows of the partition itself; `tracker.Tracker` implements it."""

    def is_done(self, offset: int) -> bool:
        """Whether the message is done, fetched or not."""

    def is_known(self, offset: int) -> bool:
        """Whether the message is done, or has been fetched."""


@dataclass(slots=True)
class _Seen:
    """An entry, and since when it has not changed."""

    entry: Entry
    since: float
    dead: bool = False

    @property
    def ended(self) -> bool:
        """Whether its writer will not write here again."""
        return self.entry.closed or self.dead

    def runs(self, offset: int) -> bool:
        return not self.dead and self.entry.items[offset].state is State.RUNNING


class Incoming:
    """The entries that were read of one partition, by register and writer.

    An entry that vanishes under another's is remembered: who follows in a register knows that
    nothing of it is needed any more, which its reader need not know yet.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._read: set[int] = set()

    @property
    def silent(self) -> bool:
        """Whether nothing is said of any message."""
        return not any(seen.entry.items for seen in self._seen.values())

    def read(self, lane: int, entry: Entry | None, asked_at: float, answered_at: float) -> None:
        """Take in what a register holds.

        Args:
            lane: Number of the register.
            entry: None when it holds none that can be read.
            asked_at: When it was asked for, in seconds of the reader's clock.
            answered_at: When the answer came.
        """
        self._read.add(lane)
        if entry is not None:
            before = self._seen.get((lane, entry.instance))
            if before is None or before.entry.beat < entry.beat:
                self._seen[lane, entry.instance] = _Seen(entry, answered_at)
        for (number, _), seen in self._seen.items():
            # The answer may be as old as the question: it counts only if that was late enough.
            if number == lane and asked_at - seen.since >= LEASE_SECONDS:
                seen.dead = True

    def fate(self, offset: int, fingerprint: int) -> Fate:
        """What to do with a message."""
        held, attempts, due = False, 0, 0.0
        for seen in self._seen.values():
            item = seen.entry.find(offset, fingerprint)
            if item is None:
                continue
            if item.state is State.DONE:
                return Fate(Turn.DONE)
            held = held or seen.runs(offset)
            attempts = max(attempts, item.attempts)
            if item.state is State.FREE:
                due = max(due, seen.since + item.delay_ms / 1000)
        return Fate(Turn.HELD if held else Turn.READY, attempts, due)

    def awaited(self, offsets: Offsets) -> set[int]:
        """Registers to read again: somebody runs messages there that are not done."""
        return {
            lane
            for (lane, _), seen in self._seen.items()
            if any(seen.runs(o) and not offsets.is_done(o) for o in seen.entry.items)
        }

    def free_lane(self, offsets: Offsets) -> int | None:
        """A register that may be written over: its writer has ended, and all is known that it said.

        A writer of which the last word is not acknowledged says it again, as long as its lease
        lasts. Only one that has closed the register, or is given up, writes over nobody's entry.

        Returns:
            None when there is none, or when none is known to be.
        """
        taken = {
            lane
            for (lane, _), seen in self._seen.items()
            if not (seen.ended and all(map(offsets.is_known, seen.entry.items)))
        }
        return min(self._read - taken, default=None)

    def opened(self, lane: int) -> None:
        """This worker writes in a register now: what it holds is to be read before the next time.

        What is still under way of its own would be written over what it says then.
        """
        self._read.discard(lane)

    def forget(self) -> set[int]:
        """Nothing that was said holds: the writers are gone, or the partition was made anew.

        Returns:
            Registers in which something was said.
        """
        lanes = {lane for (lane, _), seen in self._seen.items() if seen.entry.items}
        for seen in self._seen.values():
            # Its writer may write there still.
            seen.entry = replace(seen.entry, items={})
        return lanes
