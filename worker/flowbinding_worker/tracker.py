"""What of one partition is done, for one assignment of it.

A tracker lives from the assignment of its partition until the partition is somebody else's and its
running messages are over; a later assignment gets a new one. Whoever holds a retired tracker holds
a message that is no longer ours. Its one promise: the offset to commit never passes a message that
is not done. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from flowbinding_api.offsets import Progress
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.ports import Record

MAX_UNFINISHED = 1000
"""Unfinished messages of one partition, at most: so many always fit the commit's metadata."""


class Tracker:
    """The offsets of one partition that were fetched and are not done, and how far others are.

    Args:
        committed: The group's committed offset; None when there is none.
        progress: What the commit's metadata says is done beyond it.
    """

    def __init__(self, committed: int | None = None, progress: Progress | None = None) -> None:
        # An OrderedDict: finding the first key of a dict is quadratic after many deletions there.
        self._unfinished: OrderedDict[int, int] = OrderedDict()
        self._position = committed
        self._hi_done = committed or 0
        self._before = progress if committed is not None else None
        self.version = 0
        """Counts changes of what a commit would say."""
        self.acknowledged = (-1, -1)
        """Offset and version of the last commit that the broker has acknowledged."""
        self.handed: Outgoing | None = None
        """What others are told of its running messages, from the moment that it may be theirs."""
        self._over = False

    @property
    def retired(self) -> bool:
        """Whether nothing may be written or committed for its messages any more."""
        return self._over or (self.handed is not None and self.handed.expired)

    def retire(self) -> None:
        """Let nothing be written or committed for its messages any more."""
        self._over = True
        if self.handed is not None:
            # Nobody would ever say so otherwise: who was told of them would wait for ever.
            self.handed.free_running()

    @property
    def continues(self) -> bool:
        """Whether it goes on, and has not got far yet, from where a worker has committed."""
        return self._before is not None

    @property
    def position(self) -> int | None:
        """The offset that is fetched next; None when it is not known yet."""
        return self._position

    @property
    def unfinished(self) -> int:
        """How many fetched messages are not done."""
        return len(self._unfinished)

    @property
    def committable(self) -> int | None:
        """The offset to commit; None before the first position is known."""
        return next(iter(self._unfinished), self._position)

    @property
    def oldest_timestamp_ms(self) -> int | None:
        """Kafka timestamp of the first message that is not done; None if it has none."""
        oldest = next(iter(self._unfinished.values()), -1)
        return None if oldest < 0 else oldest

    def contradicts(self, first: int, end: int | None) -> bool:
        """Whether the partition cannot be the one that is tracked: it was made anew or cut short.

        Args:
            first: Offset of the first message fetched, or of the next fetch.
            end: The partition's end offset, if known.
        """
        if self._position is not None and first < self._position:
            return True
        return self._before is not None and end is not None and self._before.hi_done > end

    def fetched(self, records: Sequence[Record], position: int) -> list[Record]:
        """Take in what was fetched; to be called before anything else happens in the event loop.

        Offsets that were skipped over (compaction, aborted transactions) count as done.

        Args:
            records: In the order of their offsets.
            position: The offset that is fetched next, gaps included.

        Returns:
            Those that need a run: an earlier assignment may have finished some.
        """
        before = self._before
        wanted = [r for r in records if before is None or not before.is_done(r.offset)]
        for record in wanted:
            self._unfinished[record.offset] = record.timestamp_ms
        if position != self._position:
            self._position = position
            self.version += 1
        if before is not None and position >= before.hi_done:
            self._hi_done = max(self._hi_done, before.hi_done)
            self._before = None
        return wanted

    def complete(self, offset: int) -> None:
        """Count a message as done; its result or dead letter has been acknowledged."""
        if self._unfinished.pop(offset, None) is not None:
            self._hi_done = max(self._hi_done, offset + 1)
            self.version += 1

    def is_done(self, offset: int) -> bool:
        """Whether the message is done, fetched or not."""
        if self._position is not None and offset < self._position:
            return offset not in self._unfinished
        return self._before is not None and self._before.is_done(offset)

    def is_known(self, offset: int) -> bool:
        """Whether the message is done, or has been fetched."""
        fetched = self._position is not None and offset < self._position
        return fetched or self.is_done(offset)

    def progress(self) -> Progress:
        """What is done beyond `committable`, for the commit's metadata."""
        return self.after(())[1]

    def after(self, offsets: Collection[int]) -> tuple[int | None, Progress]:
        """What to commit if these messages were done as well; nothing changes.

        Returns:
            As `committable` and `progress`.
        """
        unfinished = [o for o in self._unfinished if o not in offsets]
        committable = unfinished[0] if unfinished else self._position
        hi_done = max(self._hi_done, committable or 0, max(offsets, default=-1) + 1)
        if self._before is not None:
            # Known from before, and not fetched again yet.
            hi_done = max(hi_done, self._before.hi_done)
            position = self._position or 0
            unfinished += [o for o in self._before.unfinished if o >= position]
        return committable, Progress(hi_done, tuple(o for o in unfinished if o < hi_done))
