"""One binding as a lag loop sees it, and what is remembered of its group between looks. Pure."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flowbinding_api.reasons import Reason
from flowbinding_operator.lag import (
    Commit,
    Commits,
    FigureBook,
    Observation,
    Offsets,
    Partition,
    Target,
    Trouble,
    done_of,
    lag_of,
)

SLEEPING_FETCH_SECONDS = 300.0
"""How often the commits of a binding are read, at most, that has no workers and no lag."""
WAITING_FETCH_SECONDS = 30.0
"""The same with lag: a long run that outlived its Deployment's scale-down may still commit."""
UNSEEDED_SECONDS = 4.0
"""The same while partitions have no commit: their group had members, who may have left since."""
DRAIN_SECONDS = 120.0
"""For so long after the last worker counts as gone, drained runs are still expected to commit."""
SILENCE_SECONDS = 8.0
"""How long leaders and coordinators may be away, as they are while brokers restart."""
REWIND_SECONDS = 8.0
"""For so long, ends before commits may be a new leader's that has not caught up."""
REWOUND_SECONDS = 30.0
"""How long it is told that a group starts anew."""


@dataclass(slots=True)
class Look:
    """The offsets of a binding's partitions at one time.

    Attributes:
        now: When they were asked for, on the loop's clock.
        partitions: All of the binding's.
        ends: End offsets of these and of others.
        starts: The same of start offsets.
        offsets: End offsets of these alone, in their order.
        unknown: Of how many partitions nobody has told the end.
        end: Sum of the end offsets that are known.
    """

    now: float
    partitions: Sequence[Partition]
    ends: Offsets
    starts: Offsets
    offsets: tuple[int, ...] = field(init=False)
    unknown: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        """Each is wanted several times, of every binding at every look."""
        ends = self.ends
        self.offsets = tuple([ends[p] for p in self.partitions if p in ends])
        self.unknown = len(self.partitions) - len(self.offsets)
        self.end = sum(self.offsets)


@dataclass(slots=True)
class Watched:
    """A target, and what is known of its group.

    Attributes:
        turn: Whether it is this sleeping binding's turn to have its commits read.
        suspects: Partitions that seem to end before what the group has committed of them.
        lost: Those of them that really do.
        unseeded: Whether some partition has no commit.
        rewound: What is told of them.
    """

    target: Target
    commits: Commits = field(default_factory=dict)
    figures: FigureBook = field(default_factory=FigureBook)
    fetched_at: float = float("-inf")
    fetched_end: int | None = None
    lag: int | None = None
    worked_at: float = float("-inf")
    silent_since: float | None = None
    turn: bool = False
    unseeded: bool = False
    suspects: frozenset[Partition] = frozenset()
    lost: frozenset[Partition] = frozenset()
    rewound: Trouble | None = None
    _suspected_since: float | None = None
    _rewound_at: float = float("-inf")
    _told: Observation | None = None
    _basis: tuple[object, ...] = ()

    def needs_fetch(self, end: int, now: float) -> bool:
        """Whether the commits may have changed."""
        if self.target.workers > 0:
            self.worked_at = now
        if now - self.worked_at <= DRAIN_SECONDS or end != self.fetched_end:
            return True
        if self.turn or self._suspected_since is not None:
            return True
        if self.unseeded and now - self.fetched_at >= UNSEEDED_SECONDS:
            return True
        return self.lag != 0 and now - self.fetched_at >= WAITING_FETCH_SECONDS

    def sleeps(self, now: float) -> bool:
        """Whether nothing but the time says that its commits should be read again."""
        return self.lag == 0 and now - self.fetched_at >= SLEEPING_FETCH_SECONDS

    def read(self, commits: Commits, look: Look) -> int:
        """Take in commits that have been read. Returns how much metadata is new and unreadable."""
        here = {p: commits[p] for p in look.partitions if p in commits}
        broken = self.figures.update(here)
        if commits != self.commits:
            # Only another object counts as news, see `observation`.
            self.commits = commits
        self.fetched_at, self.fetched_end, self.turn = look.now, look.end, False
        if any(partition not in look.starts for partition in look.partitions):
            # Not all that was missing could be found out.
            self.fetched_end = None
        self.unseeded = len(here) < len(look.partitions)
        return broken

    def silence(self, trouble: Trouble, now: float) -> Trouble | None:
        """`trouble`, once it has lasted; nothing while it may be brokers that restart."""
        if self.silent_since is None:
            self.silent_since = now
        return trouble if now - self.silent_since >= SILENCE_SECONDS else None

    def compare(self, ends: Offsets, now: float) -> None:
        """Find out which partitions may have lost what was committed of them.

        Ends are compared with commits that were read before them: workers may have committed more
        by the time that commits are read.
        """
        suspects = [p for p, c in self.commits.items() if c.offset > ends.get(p, c.offset)]
        if not suspects:
            self._suspected_since, self.suspects = None, frozenset()
        elif self._suspected_since is None:
            self._suspected_since = now
        elif now - self._suspected_since >= REWIND_SECONDS:
            self.suspects = frozenset(suspects)
        if self.lost:
            self.lost &= self.suspects
        if self.rewound is not None and now - self._rewound_at >= REWOUND_SECONDS:
            self.rewound = None

    def confirm(self, written: Offsets, now: float) -> int:
        """Take in where the suspects really end. Returns how many more are lost.

        Args:
            written: Their ends with the messages of open transactions: who reads these has
                committed them too.
            now: The time.
        """
        before = self.lost
        offsets = {p: self.commits[p].offset for p in self.suspects}
        self.lost = frozenset(p for p, at in offsets.items() if at > written.get(p, at))
        if self.lost:
            first = min(self.lost)
            self.rewound = rewinding(first, offsets[first], written[first])
            self._rewound_at = now
        return len(self.lost - before)

    def without_lost(self, commits: Commits) -> Commits:
        """Those commits that still mean something."""
        if not self.lost:
            return commits
        return {p: commit for p, commit in commits.items() if p not in self.lost}

    def observation(self, look: Look, output: Trouble | None, unix: float) -> Observation:
        """What the offsets say of the binding.

        Args:
            look: The offsets.
            output: Why results cannot be written.
            unix: The time in seconds since the epoch.
        """
        self.silent_since = None
        told, basis = self._told, (self.target, self.commits, look.starts, self.lost, output)
        same = told is not None and (told.ends, told.rewound) == (look.offsets, self.rewound)
        if told is not None and same and all(map(operator.is_, basis, self._basis)):
            # Most of many bindings sleep.
            self._told = replace(told, time=look.now, unix=unix)
        else:
            self._told, self._basis = self._observe(look, output, unix), basis
        return self._told

    def _observe(self, look: Look, output: Trouble | None, unix: float) -> Observation:
        ends, starts, commits = look.ends, look.starts, self.without_lost(self.commits)
        by_topic = {
            topic: lag_of(ends, starts, commits, [p for p in look.partitions if p.topic == topic])
            for topic in self.target.topics
        }
        lags = [lag for lag in by_topic.values() if lag is not None]
        self.lag = sum(lags) if len(lags) == len(by_topic) else None
        return Observation(
            time=look.now,
            lag=self.lag,
            end=look.end,
            partitions=len(look.partitions),
            by_topic={topic: lag for topic, lag in by_topic.items() if lag is not None},
            summary=self.figures.summary(self.target.workers),
            output=output,
            rewound=self.rewound,
            unix=unix,
            listed=tuple(look.partitions),
            ends=look.offsets,
            done=done_of(starts, commits, self.figures.ahead, look.partitions),
            ready=self.target.ready,
        )

    def topics_gone(self, topics: Iterable[str]) -> None:
        """These topics are gone, or others by now: what is known of them is no place to go on at.

        Should Kafka have forgotten what was committed of them, they begin at their beginning.
        """
        for topic in topics:
            anew = {p: Commit(0) for p in self.commits if p.topic == topic}
            self.commits = {**self.commits, **anew}


def rewinding(partition: Partition, committed: int, end: int) -> Trouble:
    """What is told of a partition that ends before what is committed of it."""
    return Trouble(
        Reason.OFFSET_OUT_OF_RANGE,
        f"offset {committed} was committed of partition {partition.partition} of topic"
        f" {partition.topic!r}, which ends at {end}: the topic was created anew or has lost"
        " messages; the group starts at its beginning",
    )


def next_sleeper(watched: Iterable[Watched], now: float) -> None:
    """Let the sleeping binding have its turn whose commits were read longest ago."""
    sleepers = [one for one in watched if one.sleeps(now)]
    if sleepers:
        min(sleepers, key=lambda one: one.fetched_at).turn = True
