"""One source partition's transactions: its results, dead letters and offset, all or nothing.

A message frees its slot as soon as its result waits here, and is done when it is committed. Each
transaction takes what waits and commits an offset with metadata that calls exactly those messages
done, so that messages may finish in any order. What is not committed runs again, and nobody has
seen its result.

After anything unexpected the same three steps follow: open the transactional id anew, which ends
whatever was under way and shuts everybody else out; read what is committed; go on if that is what
we committed last, or what we were about to commit. Anything else means that another worker has the
partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import Figures, Progress, decode, encode
from flowbinding_api.reasons import Reason
from flowbinding_worker.control.retry import Backoff
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.job import OVERHEAD_BYTES, Job
from flowbinding_worker.kafka.port import (
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    RecordTooLargeError,
)
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.transactions.port import TopicRefusedError, TransactionPort
from flowbinding_worker.waiting import within

TRANSACTION_SECONDS = 20.0
"""Longest wait for one transaction, before it is looked at what has become of it."""
TICK_SECONDS = 1.0
"""How often offsets are committed that come without results."""
HOLD_SECONDS = 5.0
"""How long a topic that takes nothing is left alone."""
MOST_RECORDS = 500
"""Records of one transaction."""
MOST_BYTES = 4 * 1024 * 1024
"""Bytes of one transaction, about; it always takes one record."""
ROOMY = 256
"""Results that may wait without their slots."""

_BACKOFF = Backoff(initial=0.25, cap=5.0)
_DRAW = Random()  # noqa: S311 - jitter, not a secret


@dataclass(slots=True, eq=False)
class Waiting:
    """What is to be written for one message.

    Attributes:
        job: The message.
        records: To be written in place of each other: the next when a topic does not take one
            because of its size.
        done: Resolved when it is committed; raises what `too_large` makes.
        too_large: What to raise when the last record is not taken either; None: it is tried again.
    """

    job: Job
    records: deque[Message]
    done: asyncio.Future[None]
    too_large: Callable[[Message], Exception] | None = None

    @property
    def record(self) -> Message:
        """The one to write."""
        return self.records[0]

    @property
    def offset(self) -> int:
        """Of the message."""
        return self.job.record.offset

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        record = self.record
        headers = sum(len(name) + len(value or b"") for name, value in record.headers)
        return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"") + headers


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A transaction of which it is not known what became of it."""

    batch: Sequence[Waiting]
    position: Position
    version: tuple[Tracker, int]


@dataclass(slots=True)
class Hooks:
    """What a lane needs of the worker.

    Attributes:
        tracker: The partition's tracker of today; None when the partition is not ours.
        figures: What the commit says about the worker.
        committed: Called after each transaction.
        failing: Called with an error, or with None when transactions succeed again.
        outdated: Called when another worker has the partition.
    """

    tracker: Callable[[], Tracker | None]
    figures: Callable[[Tracker], Figures]
    committed: Callable[[], None]
    failing: Callable[[FlowBindingError | None], None]
    outdated: Callable[[FlowBindingError], None]


class Lane:
    """Writes what waits, one transaction after the other.

    Args:
        port: The partition's transactional id.
        hooks: The worker.
    """

    def __init__(self, port: TransactionPort, hooks: Hooks) -> None:
        self._port = port
        self._hooks = hooks
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._base: Position | None = None
        self._opened = False
        self._tried: _Attempt | None = None
        self._version: tuple[Tracker, int] | None = None
        # So many go one by one, to find the one that is too large.
        self._alone = 0
        # Topics that take nothing, and when they are tried again.
        self._refused: dict[str, float] = {}
        self._failures = 0
        self._news = asyncio.Event()
        self._lock = asyncio.Lock()
        self.tell = False
        """Set to commit even if nothing is new but the figures."""
        self.interval = 0.1
        """Seconds between two transactions."""
        self.roomy_bytes = MOST_BYTES
        """Bytes of results that may wait without their slots."""
        self.closed = False

    @property
    def waiting(self) -> int:
        """Messages whose results are not committed."""
        return len(self._waiting)

    async def open(self) -> Position | None:
        """Begin; see `TransactionPort.open`."""
        self._base = await self._port.open()
        self._opened = True
        return self._base

    async def close(self) -> None:
        """Drop what waits, and disconnect."""
        self.closed = True
        self._waiting.clear()
        await self._port.close()

    def put(self, item: Waiting) -> None:
        """Have something written.

        The message frees its slot at once, unless Kafka takes nothing or is far behind.
        """
        self._waiting.append(item)
        self._bytes += item.size
        self._news.set()
        if not self._failures and self.waiting <= ROOMY and self._bytes <= self.roomy_bytes:
            item.job.release()

    async def run(self) -> None:
        """Write what waits, again and again, until cancelled or outdated."""
        while not self.closed:
            self._news.clear()
            if not self._ready():
                await _either(self._news, TICK_SECONDS)
            await self.flush()
            await asyncio.sleep(self._pause() or self.interval)

    async def drain(self) -> None:
        """Write all that waits, for as long as it takes; what a topic refuses is left."""
        more = True
        while more:
            more = await self.flush() or self._failures > 0
            await asyncio.sleep(self._pause())

    async def flush(self) -> bool:
        """One transaction; what fails waits for the next.

        Returns:
            Whether there may be more to write at once.
        """
        async with self._lock:
            if self.closed:
                return False
            try:
                if not self._opened:
                    await self._settle()
                self._forget_outdated()
                return await self._transact(self._batch())
            except FlowBindingError as error:
                self.tell = True
                return self._failed(error)

    def _failed(self, error: FlowBindingError) -> bool:
        """What to do about a failure; whether to go on at once."""
        if isinstance(error, MembershipLostError):
            self.closed, self._failures = True, 0
            self._hooks.outdated(error)
            return False
        if isinstance(error, RecordTooLargeError):
            self._too_large()
        elif isinstance(error, TopicRefusedError):
            self._refuse(error)
        else:
            self._failures += 1
            self._hooks.failing(error)
            return False
        return True

    def _pause(self) -> float:
        """Seconds to wait after failures."""
        if not self._failures:
            return 0.0
        return _BACKOFF.delay(self._failures, 0.5 + _DRAW.random() / 2)

    async def _transact(self, batch: list[Waiting]) -> bool:
        attempt = self._attempt(batch)
        if attempt is None:
            return False
        self._tried = attempt
        self._opened = False
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self._port.commit([w.record for w in batch], attempt.position)
        except TimeoutError:
            text = f"no end of a transaction for {TRANSACTION_SECONDS:.0f} s"
            raise KafkaUnavailableError(text) from None
        self._opened = True
        self._succeeded(attempt)
        return True

    async def _settle(self) -> None:
        """Find out what became of the last transaction, and be able to write again.

        Raises:
            MembershipLostError: Somebody else has committed for the partition.
        """
        found = await self._port.open()
        tried, self._tried = self._tried, None
        self._opened = True
        if tried is not None and found == tried.position:
            self._succeeded(tried)
        elif found != self._base:
            raise MembershipLostError("another worker has written for the partition")

    def _succeeded(self, attempt: _Attempt) -> None:
        self._tried = None
        tracker, version = attempt.version
        before = tracker.version
        for item in attempt.batch:
            self._drop(item)
            tracker.complete(item.offset)
            if not item.done.done():
                item.done.set_result(None)
        # What else has changed since is not committed.
        self._version = tracker, version + tracker.version - before
        self._base = attempt.position
        self._alone = max(0, self._alone - len(attempt.batch))
        self._failures = 0
        if not self._held():
            self._hooks.failing(None)
        self._hooks.committed()

    def _batch(self) -> list[Waiting]:
        """What the next transaction writes, in the order in which it came."""
        batch: list[Waiting] = []
        size = 0
        held = self._held()
        most = 1 if self._alone else MOST_RECORDS
        for item in self._waiting:
            if item.record.topic in held:
                continue
            size += item.size
            if len(batch) == most or (batch and size > MOST_BYTES):
                break
            batch.append(item)
        return batch

    def _attempt(self, batch: list[Waiting]) -> _Attempt | None:
        """The transaction that writes a batch; None when there is nothing to say."""
        tracker = self._hooks.tracker()
        if tracker is None:
            return None
        offset, progress = tracker.after({item.offset for item in batch})
        if offset is None:
            return None
        version = (tracker, tracker.version)
        if not batch and not self.tell and self._version == version:
            return None
        text = exactly(offset, progress, self._hooks.figures(tracker))
        if text is None:
            # Fewer are unfinished soon.
            return None
        self.tell = False
        return _Attempt(batch, Position(offset, text), version)

    def _too_large(self) -> None:
        """Find the record by writing one by one, and write less of its message."""
        batch = self._tried.batch if self._tried is not None else ()
        if len(batch) > 1:
            self._alone = len(batch)
            return
        for item in batch:
            self._shrink(item)

    def _shrink(self, item: Waiting) -> None:
        record = item.record
        self._bytes -= item.size
        if len(item.records) > 1:
            item.records.popleft()
        elif item.too_large is None:
            text = f"topic {record.topic} takes not even the key of a dead letter"
            self._refuse(TopicRefusedError(record.topic, text, Reason.DEAD_LETTER_UNAVAILABLE))
        elif not item.done.done():
            item.done.set_exception(item.too_large(record))
        self._bytes += item.size

    def _refuse(self, error: TopicRefusedError) -> None:
        """Leave a topic alone for a while; the results for others go on."""
        self._refused[error.topic] = asyncio.get_running_loop().time() + HOLD_SECONDS
        self._hooks.failing(error)

    def _forget_outdated(self) -> None:
        """Drop what nobody waits for any more."""
        tracker = self._hooks.tracker()
        for item in [w for w in self._waiting if w.job.tracker is not tracker or w.done.done()]:
            self._drop(item)

    def _drop(self, item: Waiting) -> None:
        if item in self._waiting:
            self._waiting.remove(item)
            self._bytes -= item.size

    def _held(self) -> set[str]:
        now = asyncio.get_running_loop().time()
        self._refused = {t: until for t, until in self._refused.items() if until > now}
        return set(self._refused)

    def _ready(self) -> bool:
        held = self._held()
        return any(w.record.topic not in held for w in self._waiting)


def exactly(offset: int, progress: Progress, figures: Figures) -> str | None:
    """Commit metadata that says all of it, without the figures if they do not fit.

    Returns:
        None when even that does not fit. `encode` alone would leave some of the progress out: the
        messages would run again, and their results be there twice.
    """
    for some in (figures, None):
        text = encode(offset, progress, some)
        if decode(offset, text).progress == progress:
            return text
    return None


async def _either(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await within(event.wait(), seconds)
