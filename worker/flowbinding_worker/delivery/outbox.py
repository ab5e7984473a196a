"""Delivers records: at once while Kafka takes them, and in order, from disk, while it does not.

A record that Kafka refuses, or does not acknowledge for `SLOW_SECONDS`, is stored in the spool, and
its message releases its slot. From then on every further record for that topic queues behind it,
and goes to the disk as well, until nothing waits any more. Order is kept within a *lane*: what the
source's order binds together, else the records of one key. Of each lane one record at a time is on
its way; different lanes overtake each other.

The client is asked once for a record that it does not acknowledge, and goes on trying by itself:
asking again would write it twice. It is asked again only after it has given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from random import Random
from typing import Any

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import Ordering
from flowbinding_worker.control.retry import Backoff
from flowbinding_worker.delivery.queues import Delivery, Queue
from flowbinding_worker.delivery.spool import Spool, Stored
from flowbinding_worker.delivery.spool_codec import Entry, Kind, Message, source_of
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import RecordTooLargeError
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.waiting import within

SLOW_SECONDS = 3.0
"""A record without acknowledgement for so long goes to the disk."""
WINDOW = 64
"""Records of one topic that are on their way from the disk at the same time."""
REPORT_SECONDS = 5.0
"""How often a trouble that lasts is told anew, with how much waits."""

_BACKOFF = Backoff(initial=0.5, cap=5.0)


class ResultLostError(Exception):
    """A record waited on disk and cannot be read any more: its message has to run again."""


class Outbox:
    """Delivers the records of one kind.

    Args:
        kind: Results or dead letters.
        reason: What keeps the worker from working while they are not taken.
        send: Writes one; returns when it is acknowledged.
        too_large: Makes the error of a record that no broker will ever take.
        ordering: `spec.concurrency.ordering`.
        spool: Where records wait.
        trouble: Where to say that they do.
    """

    def __init__(
        self,
        kind: Kind,
        reason: Reason,
        send: Callable[[Message], Awaitable[None]],
        too_large: Callable[[Message], Exception],
        ordering: Ordering,
        spool: Spool,
        trouble: Trouble,
    ) -> None:
        self._kind = kind
        self._reason = reason
        self._send = send
        self._too_large = too_large
        self._ordering = ordering
        self._spool = spool
        self._trouble = trouble
        self._queues: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[Delivery, float] = {}
        """When those become late that are not acknowledged yet, in that order."""
        self._timer: asyncio.TimerHandle | None = None
        self._draw = Random()  # noqa: S311 - jitter, not a secret

    def submit(self, job: Job, message: Message, reason: str = "") -> Delivery:
        """Deliver a record; `Delivery.done` tells when it is.

        When it has to wait, it is stored, and `job.release` called then.
        """
        loop = asyncio.get_running_loop()
        delivery = Delivery(
            job, message.topic, self._lane(job, message.key), loop.create_future(), message
        )
        delivery.reason = reason
        queue = self._queues.get(message.topic)
        if queue is None:
            self._start(delivery)
            return delivery
        queue.add(delivery)
        if queue.down:
            self._store(delivery)
        else:
            self._watch(delivery)
        return delivery

    def resume(self, job: Job, stored: Stored) -> Delivery:
        """Deliver a record that is on disk, for a message that has come again."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if isinstance(stored.owner, Delivery) and self._holds(stored.owner):
            # It is on its way still, since before the message's partition went and came back.
            stored.owner.done.cancel()
            stored.owner.job, stored.owner.done = job, done
            return stored.owner
        delivery = Delivery(job, stored.topic, self._lane(job, stored.key), done, stored=stored)
        if stored.delivered:
            done.set_result(None)
        else:
            stored.owner = delivery
            self._queue(stored.topic).add(delivery)
        return delivery

    async def close(self) -> None:
        """Stop delivering; what is stored stays there."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _lane(self, job: Job, key: bytes | None) -> Hashable:
        record = job.record
        if self._ordering is Ordering.PARTITION:
            return record.partition
        if self._ordering is Ordering.KEY and record.key is not None:
            return record.partition, record.key
        return key

    def _queue(self, topic: str) -> Queue:
        queue = self._queues.get(topic)
        if queue is None:
            queue = self._queues[topic] = Queue(topic)
            self._spawn(self._pump(queue))
        return queue

    def _holds(self, delivery: Delivery) -> bool:
        queue = self._queues.get(delivery.topic)
        return queue is not None and delivery in queue.members

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A fault of ours. Nothing would be delivered from here on: let everybody know.
        for queue in self._queues.values():
            queue.fail(error)

    def _start(self, delivery: Delivery) -> None:
        delivery.sending = True
        self._watch(delivery)
        # Once for every message there is: cheaper than `_spawn`, and it lets no fault out.
        delivery.task = asyncio.get_running_loop().create_task(self._try(delivery))
        self._tasks.add(delivery.task)

    def _watch(self, delivery: Delivery) -> None:
        """See to it that a record does not stay here for longer than `SLOW_SECONDS`."""
        loop = asyncio.get_running_loop()
        # All wait equally long: one timer does for all, and the first is the first to be late.
        self._watched.pop(delivery, None)
        self._watched[delivery] = at = loop.time() + SLOW_SECONDS
        if self._timer is None:
            self._timer = loop.call_at(at, self._look)

    def _look(self) -> None:
        """Find those that are late."""
        self._timer, loop = None, asyncio.get_running_loop()
        for delivery, at in list(self._watched.items()):
            if at > loop.time():
                self._timer = loop.call_at(at, self._look)
                break
            del self._watched[delivery]
            (self._overdue if delivery.sending else self._store)(delivery)

    async def _try(self, delivery: Delivery) -> None:
        """Send a record once, and note what comes of it."""
        try:
            message = delivery.message
            if message is None and delivery.stored is not None:
                message = await self._spool.read(delivery.stored)
            if delivery.void:
                # Also while it was read: who may write it may have changed.
                self._drop(delivery)
                return
            if message is None:
                self._settle(delivery, ResultLostError())
                return
            try:
                await self._send(message)
            except RecordTooLargeError:
                self._settle(delivery, self._too_large(message))
            except FlowBindingError as error:
                self._failed(delivery, str(error))
            else:
                self._settle(delivery, None)
        except Exception as error:  # noqa: BLE001 - a fault of ours: whoever waits raises it
            self._settle(delivery, error)
        finally:
            if delivery.task is not None:
                self._tasks.discard(delivery.task)

    def _settle(self, delivery: Delivery, error: Exception | None) -> None:
        """A record was acknowledged, or never will be."""
        self._watched.pop(delivery, None)
        delivery.sending, delivery.settled, delivery.acknowledged = False, True, error is None
        delivery.message = None
        if delivery.stored is not None:
            self._spool.settle(delivery.stored, delivered=error is None)
        if not delivery.done.done():
            if error is None:
                delivery.done.set_result(None)
            else:
                delivery.done.set_exception(error)
        queue = self._queues.get(delivery.topic)
        if queue is None:
            return
        if delivery in queue.members:
            queue.remove(delivery)
        if error is None:
            queue.failures = 0
            if not queue.overdue:
                queue.told = ("", 0.0)
                self._trouble.clear(self._part(queue))

    def _failed(self, delivery: Delivery, error: str) -> None:
        """The client has given up on a record: it is to be sent again."""
        self._watched.pop(delivery, None)
        delivery.sending = False
        queue = self._queue(delivery.topic)
        queue.failures += 1
        queue.error = error
        if delivery in queue.members:
            queue.again(delivery)
        else:
            queue.add(delivery)
        self._store(delivery)

    def _overdue(self, delivery: Delivery) -> None:
        """The client still tries to send a record; it does so in the queue's first place."""
        queue = self._queue(delivery.topic)
        if delivery not in queue.members:
            queue.add(delivery)
        queue.overdue.add(delivery)
        queue.wake.set()
        self._store(delivery)

    def _store(self, delivery: Delivery) -> None:
        if delivery.stored is None and not delivery.storing:
            delivery.storing = True
            self._spawn(self._put(delivery))

    async def _put(self, delivery: Delivery) -> None:
        """Store a record as soon as there is room, unless it is delivered before."""
        while (message := delivery.message) is not None and not delivery.done.done():
            source = source_of(delivery.job.record)
            entry = Entry(self._kind, source, message, delivery.reason)
            del message
            stored = await self._spool.put(entry, delivery)
            del entry
            if stored is None:
                await asyncio.wait({delivery.done}, timeout=SLOW_SECONDS)
                continue
            delivery.stored, delivery.message = stored, None
            if delivery.settled:
                self._spool.settle(stored, delivered=delivery.acknowledged)
            elif not delivery.done.done():
                delivery.job.release()
            elif not self._holds(delivery):
                # Dropped meanwhile: whoever comes for it must not wait for this delivery.
                stored.owner = None

    async def _pump(self, queue: Queue) -> None:
        """Send what waits for a topic, until nothing does."""
        try:
            await self._empty(queue)
        except Exception as fault:  # noqa: BLE001 - ours: whoever waits raises it
            queue.fail(fault)
        # Also then: what comes later must not wait behind a queue that nobody empties.
        del self._queues[queue.topic]
        self._trouble.clear(self._part(queue))

    async def _empty(self, queue: Queue) -> None:
        while queue.members:
            if queue.down:
                self._tell(queue)
            if queue.failures and not queue.sent:
                jitter = 0.5 + self._draw.random() / 2
                await asyncio.sleep(_BACKOFF.delay(queue.failures, jitter))
            queue.wake.clear()
            self._refill(queue)
            if not queue.members:
                break
            try:
                await within(queue.wake.wait(), REPORT_SECONDS)
            except TimeoutError:
                continue

    def _refill(self, queue: Queue) -> None:
        # After a failure, one goes ahead to find out.
        most = 1 if queue.failures else WINDOW
        while queue.ready and len(queue.sent) < most:
            delivery = queue.ready.popleft()
            if delivery.void:
                self._drop(delivery)
            else:
                queue.sent.add(delivery)
                self._start(delivery)

    def _drop(self, delivery: Delivery) -> None:
        """Nobody waits for a record any more. What is stored of it may still be of use."""
        self._watched.pop(delivery, None)
        delivery.sending = False
        delivery.done.cancel()
        queue = self._queues.get(delivery.topic)
        if queue is not None and delivery in queue.members:
            queue.remove(delivery)
        if delivery.stored is not None:
            delivery.stored.owner = None

    def _tell(self, queue: Queue) -> None:
        text = queue.error
        if not queue.failures:
            text = f"topic {queue.topic}: no acknowledgement for {SLOW_SECONDS:.0f} s"
        now = time.monotonic()
        before, at = queue.told
        if text == before and now - at < REPORT_SECONDS:
            return
        queue.told = text, now
        self._trouble.report(self._part(queue), self._reason, f"{text}{self._waiting()}")

    def _waiting(self) -> str:
        count = self._spool.waiting[self._kind]
        what = "result" if self._kind is Kind.RESULT else "dead letter"
        text = f"; {count} {what}{' waits' if count == 1 else 's wait'} on disk" if count else ""
        return f"{text}; the disk has no room for more" if self._spool.full else text

    def _part(self, queue: Queue) -> str:
        """Names the topic in `Trouble`."""
        return f"{self._kind} {queue.topic}"
