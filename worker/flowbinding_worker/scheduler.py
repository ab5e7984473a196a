"""Which message runs next: slots, order by key or partition, fairness, and what to fetch.

A message is *ready*, *behind* another of its chain, *running* (it holds a slot), *parked* (it waits
for a retry and holds no slot), or *held* (another worker runs it). A chain is the messages of one
key, or of one partition; only its first message is ready, running or parked. Everything is O(1) a
message, but parking, O(log n), and the look for the oldest message in `take`, O(partitions).

Pure: no clock, no tasks, no I/O.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterable
from itertools import count

from flowbinding_api.spec import Ordering
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Partition
from flowbinding_worker.tracker import MAX_UNFINISHED

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all messages that a worker holds, about."""

MIN_READY = 16
"""Messages of a partition that may wait for a slot, however many partitions there are."""


class _Lane:
    """The messages of one assigned partition."""

    __slots__ = ("admitted", "bytes", "chains", "elsewhere", "held", "ready", "slots")

    def __init__(self) -> None:
        self.ready: deque[Job] = deque()
        self.chains: dict[Hashable, deque[Job]] = {}
        self.held: set[Job] = set()
        self.elsewhere: set[Job] = set()
        self.bytes = 0
        self.slots = 0
        """Slots that its messages hold."""
        self.admitted = math.inf
        """Messages that may begin yet; finite while the partition is stopped."""


class Scheduler:
    """Decides what runs next.

    Args:
        ordering: Which messages never overtake each other.
        slots: Runs that may be in flight; may be changed at any time.
        max_bytes: Bytes of messages to hold, about; each partition may always hold one message.
    """

    def __init__(self, ordering: Ordering, slots: int, max_bytes: int = MAX_BYTES) -> None:
        self.slots = slots
        self._ordering = ordering
        self._max_bytes = max_bytes
        self._lanes: dict[Partition, _Lane] = {}
        self._suspended: dict[Partition, _Lane] = {}
        self._turns: deque[_Lane] = deque()
        self._by_turn = True
        self._running: dict[Job, _Lane] = {}
        self._answered: set[Job] = set()
        self._parked: list[tuple[float, int, Job, _Lane]] = []
        self._sequence = count()

    @property
    def running(self) -> int:
        """Slots in use."""
        return len(self._running) - len(self._answered)

    @property
    def buffered(self) -> int:
        """Messages that were fetched and do not run: ready, behind others, or parked."""
        lanes = (*self._lanes.values(), *self._suspended.values())
        total = sum(len(lane.held) for lane in lanes)
        return total - sum(1 for job, lane in self._running.items() if job in lane.held)

    @property
    def parked(self) -> int:
        """Messages that wait for a retry."""
        return sum(1 for *_, job, lane in self._parked if job in lane.held)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Begin with partitions afresh."""
        for partition in partitions:
            self._lanes[partition] = _Lane()
        self._turns = deque(self._lanes.values())

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forget all messages of partitions; those that run keep their slot until they finish."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None) or self._suspended.pop(partition, None)
            if lane is not None:
                lane.held.clear()
        self._turns = deque(self._lanes.values())

    def suspend(self, partitions: Iterable[Partition]) -> None:
        """Start nothing of partitions, and want nothing of them, until `resume` or `revoke`."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane is not None:
                self._suspended[partition] = lane
        self._turns = deque(self._lanes.values())

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Go on with suspended partitions where they were."""
        for partition in partitions:
            lane = self._suspended.pop(partition, None)
            if lane is not None:
                self._lanes[partition] = lane
        self._turns = deque(self._lanes.values())

    def retries(self, partition: Partition) -> list[Job]:
        """Messages of a partition that do not run now and have failed or been put off before."""
        lane = self._lane(partition)
        if lane is None:
            return []
        waiting = (job for job in lane.held if job not in self._running)
        return [job for job in waiting if job.attempts or job.due]

    def wanted(self) -> dict[Partition, int]:
        """Partitions to fetch from, and how many messages of each at most.

        Every partition has a share of its own, so that none can fill the room of the others. A
        partition is wanted again when half of its share is free, to fetch in batches.
        """
        share = max(1, len(self._lanes))
        most_ready = max(self.slots, MIN_READY, -(-max(2 * self.slots, 64) // share))
        most_ready = min(most_ready, MAX_UNFINISHED)
        most_bytes = self._max_bytes / share
        wanted = {}
        for partition, lane in self._lanes.items():
            # With order by partition, messages behind the first cannot run anyway.
            serial = self._ordering is Ordering.PARTITION
            waiting = len(lane.held) if serial else len(lane.ready)
            room = min(most_ready - waiting, MAX_UNFINISHED - len(lane.held))
            if room >= (most_ready + 1) // 2 and (lane.bytes < most_bytes or not lane.held):
                wanted[partition] = room
        return wanted

    def has(self, partition: Partition) -> bool:
        """Whether messages of a partition can be taken in."""
        return self._lane(partition) is not None

    def add(self, job: Job) -> None:
        """Take in a message of an assigned partition."""
        lane = self._lane(job.partition)
        if lane is None:
            raise KeyError(job.partition)
        lane.held.add(job)
        lane.bytes += job.size
        chain = self._chain(job)
        if chain is None:
            self._lead(job, lane)
        elif chain in lane.chains:
            lane.chains[chain].append(job)
        else:
            lane.chains[chain] = deque()
            self._lead(job, lane)

    def release(self, job: Job) -> None:
        """Let a held message go on: nobody else runs it any more."""
        job.held = False
        lane = self._lane(job.partition)
        if lane is not None and job in lane.elsewhere:
            lane.elsewhere.discard(job)
            self._lead(job, lane)

    def take(self) -> Job | None:
        """The next message to run, which now holds a slot; None when none is ready or no slot free.

        Every other message is of the partition whose turn it is, every other of the one whose first
        ready message has the oldest timestamp, so that what fell behind catches up. Timestamps are
        whatever producers wrote, but they decide on no more than every other message: of `n`
        partitions, the first ready message of any is taken within 2 `n` takes. A partition whose
        runs hold half of the slots has only its turns: if they are long, that is why it is behind.
        """
        if self.running >= self.slots:
            return None
        lane = self._in_turn()
        if lane is None:
            return None
        oldest = None if self._by_turn else self._oldest()
        self._by_turn = not self._by_turn
        if oldest is None:
            self._turns.rotate(-1)
        return self._begin(oldest or lane)

    def answered(self, job: Job) -> bool:
        """Free the slot of a message whose result is on its way to Kafka; its chain still waits.

        Returns:
            False, and the slot stays taken, when there are as many of them as slots: what Kafka
            does not take must not pile up.
        """
        if job not in self._running or len(self._answered) >= self.slots:
            return False
        if job not in self._answered:
            self._answered.add(job)
            self._running[job].slots -= 1
        return True

    def finish(self, job: Job) -> None:
        """Free the message's slot and let the next of its chain go."""
        lane = self._end(job)
        if job not in lane.held:
            return
        lane.held.discard(job)
        lane.bytes -= job.size
        chain = self._chain(job)
        if chain is None:
            return
        behind = lane.chains[chain]
        if behind:
            self._lead(behind.popleft(), lane)
        else:
            del lane.chains[chain]

    def park(self, job: Job, due: float) -> None:
        """Free the message's slot until it runs again at `due`; its chain waits for it."""
        lane = self._end(job)
        if job in lane.held:
            self._park(job, due, lane)

    def wake(self, now: float) -> None:
        """Make parked messages ready whose time has come."""
        while self._parked and self._parked[0][0] <= now:
            *_, job, lane = heapq.heappop(self._parked)
            if job in lane.held:
                job.due = 0.0
                if math.isinf(lane.admitted):
                    lane.ready.append(job)
                else:
                    # What was tried before comes to its end first.
                    lane.ready.appendleft(job)

    def stop(self, partition: Partition) -> None:
        """Begin nothing more of a partition but what is admitted; what runs goes on."""
        self._admit(partition, 0)

    def admit(self, partition: Partition) -> None:
        """Let one message of a stopped partition begin."""
        self._admit(partition, 1)

    def go_on(self, partition: Partition) -> None:
        """Begin messages of a stopped partition again."""
        self._admit(partition, math.inf)

    def _admit(self, partition: Partition, number: float) -> None:
        lane = self._lanes.get(partition) or self._suspended.get(partition)
        if lane is not None:
            lane.admitted = number

    def next_due(self) -> float | None:
        """When `wake` has something to do next."""
        return self._parked[0][0] if self._parked else None

    def _in_turn(self) -> _Lane | None:
        """The lane whose turn it is, now in front of `_turns`; None when none has a message."""
        for _ in range(len(self._turns)):
            lane = self._turns[0]
            if lane.ready and lane.admitted:
                return lane
            self._turns.rotate(-1)
        return None

    def _oldest(self) -> _Lane | None:
        """The lane with the oldest first message, by turns; None if all are alike."""
        oldest, timestamp, alike = None, 0, True
        for lane in self._turns:
            if (ready := lane.ready) and lane.admitted and 2 * lane.slots < self.slots:
                other = ready[0].record.timestamp_ms
                if oldest is None:
                    oldest, timestamp = lane, other
                elif other != timestamp:
                    alike = False
                    if other < timestamp:
                        oldest, timestamp = lane, other
        return None if alike else oldest

    def _begin(self, lane: _Lane) -> Job:
        lane.admitted -= 1
        job = lane.ready.popleft()
        self._running[job] = lane
        lane.slots += 1
        return job

    def _end(self, job: Job) -> _Lane:
        lane = self._running.pop(job)
        if job in self._answered:
            self._answered.remove(job)
        else:
            lane.slots -= 1
        return lane

    def _lane(self, partition: Partition) -> _Lane | None:
        return self._lanes.get(partition) or self._suspended.get(partition)

    def _lead(self, job: Job, lane: _Lane) -> None:
        """Let a message be the first of its chain."""
        if job.held:
            lane.elsewhere.add(job)
        elif job.due:
            self._park(job, job.due, lane)
        else:
            lane.ready.append(job)

    def _park(self, job: Job, due: float, lane: _Lane) -> None:
        job.due = due
        heapq.heappush(self._parked, (due, next(self._sequence), job, lane))

    def _chain(self, job: Job) -> Hashable | None:
        if self._ordering is Ordering.KEY:
            # Messages without a key have no order among each other.
            return job.record.key
        return 0 if self._ordering is Ordering.PARTITION else None
