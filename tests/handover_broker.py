"""Kafka in virtual time, as far as the protocol that hands running messages over needs it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from flowbinding_api.offsets import Progress, encode
from flowbinding_worker.handover import FENCE_SECONDS, LEASE_SECONDS
from flowbinding_worker.ports import Partition, Record

TICK = 0.25
LATE = LEASE_SECONDS - FENCE_SECONDS - TICK
"""How long at most a write may be under way."""
P = Partition("in", 0)


@dataclass
class Faults:
    """How likely things go wrong, for each time that they can.

    Attributes:
        kill: A worker dies.
        stall: It stands still for a while, and goes on.
        unwritten: A register is not written.
        unacknowledged: It is, and the answer is lost.
        unreadable: Registers cannot be read.
        uncommitted: A commit fails.
        late: A register is written a while after it was given up.
        expelled: A worker that stands still does so until the group has gone on without it.
        restless: The group hands partitions out again, for no reason.
        restart: The broker is gone for a while, and all join the group again then.
    """

    kill: float = 0.0
    stall: float = 0.0
    unwritten: float = 0.0
    unacknowledged: float = 0.0
    unreadable: float = 0.0
    uncommitted: float = 0.0
    late: float = 0.0
    expelled: float = 0.0
    restless: float = 0.0
    restart: float = 0.0


NONE = Faults()


class Broker:
    """One partition, its registers, and a group's commits of it."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.random = Random(seed)
        self.faults = faults
        self.now = 0.0
        self.down_until = 0.0
        self.log: list[Record] = []
        self.written: set[int] = set()
        """Offsets of messages of which the result was written."""
        self.registers: dict[int, str] = {}
        self.under_way: list[tuple[float, int, str]] = []
        self.committed: tuple[int, str] = (0, "")
        self.done = 0, Progress(0, ())

    @property
    def down(self) -> bool:
        return self.now < self.down_until

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.random.random() < chance

    def say(self, lane: int, text: str) -> bool:
        """Write a register: whether it is acknowledged."""
        if self.down or self.happens(self.faults.unwritten):
            return False
        if self.happens(self.faults.late):
            self.under_way.append((self.now + self.random.uniform(0, LATE), lane, text))
            return False
        self.registers[lane] = text
        return not self.happens(self.faults.unacknowledged)

    def arrive(self) -> None:
        """Write what was under way for long enough."""
        for one in [one for one in self.under_way if one[0] <= self.now]:
            self.under_way.remove(one)
            self.registers[one[1]] = one[2]

    def take(self, offset: int, progress: Progress) -> bool:
        """Commit: whether it is acknowledged."""
        if self.down or self.happens(self.faults.uncommitted):
            return False
        if (offset, progress) != self.done:
            self.done = offset, progress
            done = {o for o in range(len(self.log)) if o < offset or progress.is_done(o)}
            assert done <= self.written, "a commit passes a message that is not done"
            self.committed = offset, encode(offset, progress)
        return True
