"""The messages of newly assigned partitions about which earlier owners have something to say.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowbinding_worker.handover.entry import fingerprint
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Partition


class Inheritance:
    """Decides about each message that is fetched, and again while somebody else runs it."""

    def __init__(self) -> None:
        self._incoming: dict[Partition, Incoming] = {}
        self._held: dict[Partition, list[Job]] = {}

    @property
    def held(self) -> int:
        """Messages that wait because somebody else runs them."""
        return sum(1 for jobs in self._held.values() for job in jobs if job.held)

    def begin(self, incoming: Mapping[Partition, Incoming]) -> None:
        """Take over what earlier owners say of newly assigned partitions."""
        for partition, what in incoming.items():
            self._incoming[partition] = what
            self._held[partition] = []

    def end(self, partition: Partition) -> None:
        """The partition is not ours any more."""
        self._incoming.pop(partition, None)
        self._held.pop(partition, None)

    def of(self, partition: Partition) -> Incoming | None:
        """What earlier owners say; None when it is not known."""
        return self._incoming.get(partition)

    def void(self, partition: Partition) -> None:
        """Nothing that was said of the partition holds: it was made anew."""
        self._held[partition] = []
        if (incoming := self._incoming.get(partition)) is not None:
            incoming.forget()

    def admit(self, job: Job, now: float) -> Turn:
        """What is to be done with a message that was fetched; marks it accordingly."""
        incoming = self._incoming.get(job.partition)
        if incoming is None or incoming.silent:
            return Turn.READY
        turn = _decide(job, incoming, now)
        if turn is Turn.HELD:
            job.held = True
            self._held[job.partition].append(job)
        return turn

    def reconsider(self, partition: Partition, now: float) -> list[tuple[Job, Turn]]:
        """The messages that are held no longer, and whether they are done; marks them."""
        incoming = self._incoming.get(partition)
        if incoming is None:
            return []
        decided = [(job, _decide(job, incoming, now)) for job in self._held[partition]]
        self._held[partition] = [job for job, turn in decided if turn is Turn.HELD]
        return [(job, turn) for job, turn in decided if turn is not Turn.HELD]


def _decide(job: Job, incoming: Incoming, now: float) -> Turn:
    turn, attempts, due = incoming.fate(job.record.offset, fingerprint(job.record))
    job.over = turn is Turn.DONE
    job.attempts = max(job.attempts, attempts)
    job.due = due if due > now else 0.0
    return turn
