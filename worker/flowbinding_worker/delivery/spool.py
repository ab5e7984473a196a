"""Results and dead letters that wait on disk while Kafka does not take them.

Nothing here happens while Kafka takes them: no file, no thread. A record that is stored survives
the worker: on the same volume, a worker that starts again finds it under the message it was made
from, and delivers it instead of running the flow once more. The files are never believed further
than their checksums: a record that cannot be read is a message that is not done.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from flowbinding_worker.delivery.spool_codec import (
    MARK_BYTES,
    Entry,
    Kind,
    Message,
    encode,
    source_of,
)
from flowbinding_worker.delivery.spool_files import SpoolFiles, blocks
from flowbinding_worker.ports import Partition, Record

log = structlog.get_logger(__name__)

BATCH_BYTES = 1024 * 1024
"""Records that are stored at the same time share a file, up to about this size."""
KEEP_SECONDS = 60.0
"""How long a delivered record is remembered: until the commit of its message, even a late one."""

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Stored:
    """A record on disk.

    Attributes:
        kind: A result or a dead letter.
        partition: Of the message it was made from.
        offset: Of that message.
        fingerprint: Of that message.
        topic: Where it goes.
        key: Its key.
        reason: Why it is a dead letter.
        file: Number of its file.
        start: Where it begins there.
        end: Where it ends.
        settled: Whether it was delivered or given up.
        delivered: Whether it was acknowledged.
        owner: Who is to deliver it; None when nobody is, as after a restart.
    """

    kind: Kind
    partition: Partition
    offset: int
    fingerprint: str
    topic: str
    key: bytes | None
    reason: str
    file: int
    start: int
    end: int
    settled: bool = False
    delivered: bool = False
    owner: Any = None


@dataclass(slots=True)
class _File:
    size: int
    entries: list[Stored] = field(default_factory=list)


@dataclass(slots=True)
class _Put:
    entry: Entry
    frame: bytes
    owner: Any
    done: asyncio.Future[Stored | None]

    @property
    def size(self) -> int:
        return blocks(len(self.frame) + MARK_BYTES)


class Spool:
    """A bounded store of records; see `open_spool`.

    Args:
        files: Where they are; None: nothing can be stored.
        limit: Bytes of disk to use at most.
        broken: Called for each record that cannot be read.
    """

    def __init__(self, files: SpoolFiles | None, limit: int, broken: Callable[[], None]) -> None:
        self._store = files
        self._limit = limit
        self._broken = broken
        self._files: dict[int, _File] = {}
        self._index: dict[tuple[Partition, int], Stored] = {}
        self._puts: deque[_Put] = deque()
        self._marks: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        self._flushing: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._complained = False
        self.bytes = 0
        """Bytes of disk in use."""
        self.full = False
        """Whether the last record found no room."""
        self.waiting: Counter[Kind] = Counter()
        """How many records of each kind are not delivered."""
        if files is not None:
            self._load(files)

    @property
    def usable(self) -> bool:
        """Whether anything can be stored at all."""
        return self._store is not None

    def find(self, record: Record) -> Stored | None:
        """What is stored for a message that is about to run.

        A record that was made from another message at the same place is dropped.
        """
        if not self._index:
            return None
        stored = self._index.get((record.partition, record.offset))
        if stored is not None and stored.fingerprint != source_of(record).fingerprint:
            self.settle(stored, delivered=False)
            return None
        if stored is not None and stored.settled:
            self._expire_later(stored.file)
        return stored

    def passed(self, partition: Partition, offset: int) -> None:
        """The group has committed `offset`: what is stored for messages before it is of no use."""
        for (where, at), stored in list(self._index.items()):
            if where == partition and at < offset and stored.owner is None:
                self.settle(stored, delivered=False)

    async def put(self, entry: Entry, owner: object) -> Stored | None:
        """Store a record.

        Returns:
            The record, which is there after a crash; None when there is no room for it.
        """
        put = _Put(entry, encode(entry), owner, asyncio.get_running_loop().create_future())
        self.full = self._store is not None and not self._reserve(put.size)
        if self.full or self._store is None:
            return None
        self._puts.append(put)
        self._flush_soon()
        return await put.done

    async def read(self, stored: Stored) -> Message | None:
        """A stored record; None when it cannot be read any more."""
        store = self._store
        if store is None:
            return None
        entry = await self._in_thread(partial(store.read, stored.file, stored.start, stored.end))
        if entry is None:
            self._broken()
            log.error("a stored record cannot be read: its message runs again", topic=stored.topic)
            return None
        return entry.message

    def settle(self, stored: Stored, *, delivered: bool) -> None:
        """A record was acknowledged, or is given up. A delivered one is remembered for a while."""
        if stored.settled and stored.delivered == delivered:
            return
        if not stored.settled:
            self.waiting[stored.kind] -= 1
        stored.settled, stored.delivered, stored.owner = True, delivered, None
        if not delivered:
            self._unindex(stored)
        self._marks[stored.file].append((stored.start, delivered))
        self._flush_soon()

    async def close(self) -> None:
        """Write what is known, and let another process use the directory."""
        for timer in self._timers.values():
            timer.cancel()
        while self._flushing is not None:
            await asyncio.wait({self._flushing})
        if self._thread is not None:
            self._thread.shutdown()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _load(self, files: SpoolFiles) -> None:
        for number, size, found in files.scan():
            self._files[number] = _File(size)
            self.bytes += size
            entries: dict[int, Stored] = {}
            for frame in found:
                if frame is None:
                    self._broken()
                elif frame.entry is not None:
                    entries[frame.start] = self._register(
                        number, frame.start, frame.end, frame.entry, None
                    )
                elif frame.start in entries:
                    self._recall(entries[frame.start], delivered=frame.delivered)
            if self._useless(number):
                self._forget(number)
                files.delete(number)

    def _recall(self, stored: Stored, *, delivered: bool) -> None:
        if not stored.settled:
            self.waiting[stored.kind] -= 1
        stored.settled, stored.delivered = True, delivered
        if not delivered:
            self._unindex(stored)

    def _register(self, file: int, start: int, end: int, entry: Entry, owner: Any) -> Stored:
        source, message = entry.source, entry.message
        stored = Stored(
            entry.kind, *source, message.topic, message.key, entry.reason, file, start, end
        )
        stored.owner = owner
        self._files[file].entries.append(stored)
        older = self._index.get((stored.partition, stored.offset))
        if older is not None and not older.settled:
            self._recall(older, delivered=False)
        self._index[stored.partition, stored.offset] = stored
        self.waiting[stored.kind] += 1
        return stored

    def _unindex(self, stored: Stored) -> None:
        place = stored.partition, stored.offset
        if self._index.get(place) is stored:
            del self._index[place]

    def _reserve(self, size: int) -> bool:
        """Take room; records that nobody waits for make some."""
        if size > self._limit:
            return False
        while self.bytes + size > self._limit:
            useless = (
                number
                for number, file in self._files.items()
                if all(e.settled or e.owner is None for e in file.entries)
            )
            number = next(useless, None)
            if number is None:
                return False
            self._delete(number)
        self.bytes += size
        return True

    def _flush_soon(self) -> None:
        if self._flushing is None and self._store is not None:
            self._flushing = asyncio.create_task(self._flush(self._store))

    async def _flush(self, store: SpoolFiles) -> None:
        try:
            while self._puts or self._marks:
                if self._puts:
                    await self._write(store)
                if self._marks:
                    await self._mark(store)
        finally:
            self._flushing = None

    async def _write(self, store: SpoolFiles) -> None:
        puts = [self._puts.popleft()]
        size = len(puts[0].frame)
        while self._puts and size + len(self._puts[0].frame) <= BATCH_BYTES:
            puts.append(self._puts.popleft())
            size += len(puts[-1].frame)
        try:
            number = await self._in_thread(partial(store.write, [put.frame for put in puts]))
        except OSError as error:
            self._complain(error)
            self.bytes -= sum(put.size for put in puts)
            self.full = True
            for put in puts:
                _answer(put, None)
            return
        whole = blocks(size + len(puts) * MARK_BYTES)
        self._files[number] = _File(whole)
        self.bytes += whole - sum(put.size for put in puts)
        at = 0
        for put in puts:
            end = at + len(put.frame)
            _answer(put, self._register(number, at, end, put.entry, put.owner))
            at = end

    async def _mark(self, store: SpoolFiles) -> None:
        marks, self._marks = self._marks, defaultdict(list)
        for number, of_file in marks.items():
            if number in self._files and not self._useless(number):
                try:
                    await self._in_thread(partial(store.mark, number, of_file))
                except OSError as error:
                    self._complain(error)
            self._delete_if_useless(number)
            self._expire_later(number)

    def _useless(self, number: int) -> bool:
        return all(e.settled and not e.delivered for e in self._files[number].entries)

    def _delete_if_useless(self, number: int) -> None:
        if number in self._files and self._useless(number):
            self._delete(number)

    def _expire_later(self, number: int) -> None:
        """Delete a file some time after its last record was settled."""
        file = self._files.get(number)
        if number in self._timers or file is None or not all(e.settled for e in file.entries):
            return
        loop = asyncio.get_running_loop()
        self._timers[number] = loop.call_later(KEEP_SECONDS, self._delete, number)

    def _delete(self, number: int) -> None:
        """Delete a file: at once for us, and on disk before whatever is written from now on."""
        self._forget(number)
        if self._store is not None:
            self._executor().submit(self._store.delete, number)

    def _forget(self, number: int) -> None:
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.cancel()
        file = self._files.pop(number)
        self.bytes -= file.size
        for stored in file.entries:
            if not stored.settled:
                self.waiting[stored.kind] -= 1
            stored.settled, stored.delivered = True, False
            self._unindex(stored)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("records cannot be stored on disk", error=str(error))

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor(), call)

    def _executor(self) -> ThreadPoolExecutor:
        """One thread, so that calls take effect in the order in which they were made."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "spool")
        return self._thread


def _answer(put: _Put, stored: Stored | None) -> None:
    if not put.done.done():
        put.done.set_result(stored)


def open_spool(directory: Path, group: str, limit: int, broken: Callable[[], None]) -> Spool:
    """A spool in a directory, with what a worker of the same group has left there.

    Reads whatever is there before it returns. Without a writable directory nothing is stored, and
    records that Kafka does not take wait in memory, holding their slots.

    Args:
        directory: Made when it is missing.
        group: The consumer group.
        limit: Bytes of disk to use at most; 0 for none.
        broken: Called for each record that cannot be read.
    """
    files = None
    if limit:
        try:
            files = SpoolFiles(directory, group)
        except OSError as error:
            log.warning("results cannot wait on disk", directory=str(directory), error=str(error))
    return Spool(files, limit, broken)
