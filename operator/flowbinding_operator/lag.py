"""Lag and workers' figures from offsets. Pure: `poller` brings the offsets.

A message counts as lag while it is not committed: max(0, end - max(committed, start)). Without a
commit, a partition counts from its start. What could not be read is unknown, never zero.

Transaction markers and aborted messages take offsets too, so they count until a worker has read
past them, and commits that. Messages of open transactions do not count: nobody gets them yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flowbinding_api import offsets
from flowbinding_api.offsets import Figures, Metadata
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Commit(NamedTuple):
    """A committed offset with its metadata."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What is watched for a binding.

    Attributes:
        key: `<namespace>/<name>`.
        written: Topics of its results, which have to be there.
        workers: Pods that exist: only while there are any, figures mean something.
        ready: Those of them that are ready.
    """

    key: str
    group: str
    topics: tuple[str, ...]
    start_from: StartFrom = StartFrom.EARLIEST
    workers: int = 0
    ready: int = 0
    written: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be read."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a binding's workers say, put together.

    Attributes:
        workers: Distinct workers that have spoken.
        slots: Sum of their slots.
        seconds_per_message: Mean over the workers; None before the first run.
        oldest_timestamp_ms: Of the oldest message in work.
        reason: What keeps workers from working; empty when nothing does.
        answered: Whether any has finished a run.
    """

    workers: int = 0
    slots: int = 0
    seconds_per_message: float | None = None
    oldest_timestamp_ms: int | None = None
    reason: str = ""
    message: str = ""

    @property
    def answered(self) -> bool:
        """Whether any worker has finished a run."""
        return self.seconds_per_message is not None


@dataclass(frozen=True, slots=True)
class Observation:
    """What one poll saw of a binding.

    Attributes:
        time: On the poller's steady clock.
        lag: Messages not done; None while unknown.
        end: Sum of the end offsets; None while unknown.
        partitions: Of all topics; None while unknown.
        by_topic: Lag of each topic.
        trouble: Why something is unknown.
        output: Why results cannot be written; says nothing about the lag.
        rewound: What is to be told of partitions that end before what was committed of them.
        unix: The time in seconds since the epoch.
        listed: The partitions, in the order of `ends` and `done`.
        ends: End offset of each partition.
        done: Of each partition, where it starts plus what is done of it.
        ready: Workers that are ready.
    """

    time: float
    lag: int | None = None
    end: int | None = None
    partitions: int | None = None
    by_topic: Mapping[str, int] = field(default_factory=dict)
    summary: Summary = Summary()
    trouble: Trouble | None = None
    output: Trouble | None = None
    rewound: Trouble | None = None
    unix: float | None = None
    listed: tuple[Partition, ...] = ()
    ends: tuple[int, ...] = ()
    done: tuple[int, ...] = ()
    ready: int | None = None

    @property
    def blank(self) -> bool:
        """Whether it says nothing at all: Kafka did not answer this once."""
        return self.partitions is None and self.trouble is None

    @property
    def misses_topic(self) -> bool:
        """Whether a topic that is read or written is not there."""
        troubles = (self.trouble, self.output)
        return any(t is not None and t.reason is Reason.TOPIC_MISSING for t in troubles)


Offsets = Mapping[Partition, int]
Commits = Mapping[Partition, Commit]


def lag_of(
    ends: Offsets, starts: Offsets, commits: Commits, partitions: Iterable[Partition]
) -> int | None:
    """Lag of some partitions together; None when any end or missing commit's start is unknown."""
    total = 0
    for partition in partitions:
        end, start = ends.get(partition), starts.get(partition, 0)
        commit = commits.get(partition)
        if end is None or (commit is None and partition not in starts):
            return None
        total += max(0, end - max(start, commit.offset if commit else start))
    return total


def done_of(
    starts: Offsets,
    commits: Commits,
    ahead: Mapping[Partition, int],
    partitions: Iterable[Partition],
) -> tuple[int, ...]:
    """How far each partition is done, as one offset: messages done beyond the commit count too.

    One message that takes long holds the commit back, but not the messages behind it.
    """
    result = []
    for partition in partitions:
        start, commit = starts.get(partition, 0), commits.get(partition)
        offset = max(start, commit.offset) if commit else start
        result.append(offset + (ahead.get(partition, 0) if commit else 0))
    return tuple(result)


def seeds(
    target: Target,
    partitions: Iterable[Partition],
    ends: Offsets,
    starts: Offsets,
    commits: Commits,
    remembered: Commits,
) -> dict[Partition, Commit]:
    """Commits to make for partitions that have none, so that the start is settled once and for all.

    A topic that the group has never committed starts where the binding says. A partition that was
    added to a topic later starts at its beginning: its first messages came after the binding. A
    commit that is gone (Kafka forgets groups that have slept for a week) is made again; but a topic
    that ends before one of them was created anew, so that it starts at its beginning.

    A topic waits until all of its partitions are known: what is left for later would seem added.
    """
    missing = [partition for partition in partitions if partition not in commits]
    if not missing:
        return {}
    known_topics = {partition.topic for partition in {**remembered, **commits}}
    anew = {p.topic for p, c in remembered.items() if c.offset > ends.get(p, c.offset)}
    blind = {p.topic for p in missing if p not in starts or p not in ends}
    result = {}
    for partition in missing:
        if partition.topic in blind:
            continue
        start, end = starts[partition], ends[partition]
        before = remembered.get(partition)
        if before is not None and partition.topic not in anew:
            result[partition] = Commit(max(before.offset, start))
        elif partition.topic in known_topics or target.start_from is StartFrom.EARLIEST:
            result[partition] = Commit(start)
        else:
            result[partition] = Commit(end)
    return result


@dataclass(slots=True)
class FigureBook:
    """The figures of one group's workers, as far as they can be trusted.

    A commit carries no time, so age is judged by change. Of each worker, the statement that was
    seen to change last counts: its older ones, beside partitions that had no messages since, are
    history. Of more workers than there are Pods, those that spoke last count: the others are gone.
    Among statements that were there at the first look, whose order is unknown, the ones without a
    complaint win: a worker that still has the trouble will say so again.
    """

    ahead: dict[Partition, int] = field(default_factory=dict)
    """Messages that are done beyond the commit, where there are any."""
    _seen: dict[Partition, tuple[Commit, int, Figures | None]] = field(default_factory=dict)
    _round: int = 0

    def update(self, commits: Commits) -> int:
        """Take in what is committed now. Returns how much of it is new and unreadable."""
        broken = 0
        for partition, commit in commits.items():
            known = self._seen.get(partition)
            if known is None or known[0] != commit:
                metadata, readable = _decode(commit)
                broken += not readable
                figures = metadata.figures if metadata else None
                self._seen[partition] = (commit, self._round, figures)
                self._go_ahead(partition, commit, metadata)
        self._round += 1
        return broken

    def _go_ahead(self, partition: Partition, commit: Commit, metadata: Metadata | None) -> None:
        self.ahead.pop(partition, None)
        if metadata is not None:
            progress = metadata.progress
            ahead = progress.hi_done - commit.offset - len(progress.unfinished)
            if ahead > 0:
                self.ahead[partition] = ahead

    def summary(self, workers: int) -> Summary:
        """What `workers` Pods say, put together."""
        newest: dict[int, tuple[tuple[int, bool], Figures]] = {}
        for _, seen, figures in self._seen.values():
            if figures is None:
                continue
            rank = (seen, not figures.reason)
            if figures.instance not in newest or rank > newest[figures.instance][0]:
                newest[figures.instance] = (rank, figures)
        ranked = sorted(newest.values(), key=lambda item: item[0], reverse=True)
        return _summary([figures for _, figures in ranked[:workers]])


def _decode(commit: Commit) -> tuple[Metadata | None, bool]:
    """A commit's metadata, and whether it could be read."""
    if not commit.metadata:
        return None, True
    try:
        return offsets.decode(commit.offset, commit.metadata), True
    except offsets.MetadataError:
        return None, False


def _summary(figures: list[Figures]) -> Summary:
    means = [f.seconds_per_message for f in figures if f.seconds_per_message is not None]
    oldest = [f.oldest_timestamp_ms for f in figures if f.oldest_timestamp_ms is not None]
    complaint = next((f for f in figures if f.reason), None)
    return Summary(
        workers=len(figures),
        slots=sum(f.slots for f in figures),
        seconds_per_message=sum(means) / len(means) if means else None,
        oldest_timestamp_ms=min(oldest, default=None),
        reason=complaint.reason if complaint else "",
        message=complaint.message if complaint else "",
    )
