"""What waits for a topic: records on their way, and the order that they have to keep."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from flowbinding_worker.delivery.spool import Stored
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.job import Job


@dataclass(slots=True, eq=False)
class Delivery:
    """A record on its way.

    Attributes:
        job: The message it was made from.
        topic: Where it goes.
        lane: Records of one lane leave one after the other; None: of no lane.
        done: Resolved when it is acknowledged. Cancelled when nobody waits for it any more; raises
            what makes the record undeliverable.
        message: The record, while it is in memory.
        stored: Its place on disk.
        reason: Why it is a dead letter.
    """

    job: Job
    topic: str
    lane: Hashable
    done: asyncio.Future[None]
    message: Message | None = None
    stored: Stored | None = None
    reason: str = ""
    sending: bool = False
    storing: bool = False
    settled: bool = False
    acknowledged: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def void(self) -> bool:
        """Whether it must not be sent: nobody waits for it, or its message is somebody else's."""
        return self.done.cancelled() or self.job.tracker.retired


@dataclass(slots=True, eq=False)
class Queue:
    """What waits for one topic, in order.

    Attributes:
        topic: Its name.
        members: All that wait, sent or not.
        ready: Those that may be sent next.
        lanes: What waits behind the first of each lane.
        overdue: Those that the client still tries to send.
        failures: Times in a row that it gave up.
        error: What it said last.
        told: What was reported last, and when.
        sent: Those that were taken from `ready`.
        wake: Set when any of this changes.
    """

    topic: str
    members: set[Delivery] = field(default_factory=set)
    ready: deque[Delivery] = field(default_factory=deque)
    lanes: dict[Hashable, deque[Delivery]] = field(default_factory=dict)
    overdue: set[Delivery] = field(default_factory=set)
    failures: int = 0
    error: str = ""
    told: tuple[str, float] = ("", 0.0)
    sent: set[Delivery] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def down(self) -> bool:
        """Whether what comes now goes to the disk at once."""
        return bool(self.failures or self.overdue)

    def add(self, delivery: Delivery) -> None:
        """Queue a delivery; one that is being sent already only holds back its lane."""
        self.members.add(delivery)
        self.wake.set()
        if delivery.sending and delivery.lane in self.lanes:
            # What has been sent cannot be held back any more.
            delivery.lane = None
        if delivery.lane is not None:
            behind = self.lanes.get(delivery.lane)
            if behind is not None:
                behind.append(delivery)
                return
            self.lanes[delivery.lane] = deque()
        if not delivery.sending:
            self.ready.append(delivery)

    def again(self, delivery: Delivery) -> None:
        """A delivery has to be sent once more, before what is behind it."""
        self.sent.discard(delivery)
        self.overdue.discard(delivery)
        self.ready.appendleft(delivery)
        self.wake.set()

    def remove(self, delivery: Delivery) -> None:
        """A delivery has come to its end: let the next of its lane go."""
        for group in (self.members, self.overdue, self.sent):
            group.discard(delivery)
        self.wake.set()
        if delivery.lane is None:
            return
        behind = self.lanes[delivery.lane]
        if behind:
            self.ready.append(behind.popleft())
        else:
            del self.lanes[delivery.lane]

    def fail(self, error: BaseException) -> None:
        """A fault of ours: let all know who wait for a delivery."""
        for delivery in self.members:
            if not delivery.done.done():
                delivery.done.set_exception(error)
