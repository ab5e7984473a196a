"""Reads what groups have committed, for those bindings whose commits may have changed.

Groups that have no commits yet, and no members, are given a start.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from flowbinding_operator.kafka import LATEST, ClusterError, Layout, MovedError
from flowbinding_operator.kafka_connections import together
from flowbinding_operator.kafka_groups import Committed, Take
from flowbinding_operator.lag import Commit, Commits, Observation, Partition, seeds
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.watched import Look, Watched

log = structlog.get_logger(__name__)

BATCH = 25
"""Bindings whose commits are taken in without letting anything else run."""
PARALLEL = 64
"""Groups that are given a start at the same time."""


class GroupLink(Protocol):
    """The requests of `KafkaLink` that are needed here."""

    async def offsets(  # noqa: D102
        self, layout: Layout, partitions: Iterable[Partition], which: int, *, open_too: bool = False
    ) -> dict[Partition, int]: ...
    async def committed(self, groups: Mapping[str, int], take: Take) -> None: ...  # noqa: D102
    async def empty(  # noqa: D102
        self, groups: Collection[str]
    ) -> Mapping[str, bool | ClusterError]: ...
    async def commit(self, group: str, commits: Mapping[Partition, Commit]) -> None: ...  # noqa: D102


class Looked(NamedTuple):
    """A binding that is being looked at."""

    watched: Watched
    look: Look


class Fresh(NamedTuple):
    """A binding with partitions that its group has no commit of.

    Attributes:
        commits: What is committed.
        missing: What should be.
    """

    looked: Looked
    commits: Commits
    missing: Commits

    @property
    def group(self) -> str:
        """The binding's."""
        return self.looked.watched.target.group


class Fetcher:
    """The part of a lag loop that reads commits.

    Args:
        link: To the cluster.
        metrics: Where reads are counted.
        conclude: Told that a binding's commits are known now.
        tell: Told what there is to tell of one whose commits are not.
    """

    def __init__(
        self,
        link: GroupLink,
        metrics: Metrics,
        conclude: Callable[[Watched, Look], None],
        tell: Callable[[Watched, Observation], None],
    ) -> None:
        self._link = link
        self._metrics = metrics
        self._conclude = conclude
        self._tell = tell

    async def fetch(self, looks: Sequence[Looked], layout: Layout) -> None:
        """Read the commits of what is looked at, and tell what they say as they come.

        Args:
            looks: Bindings, with the offsets that have been seen.
            layout: Who leads what.
        """
        self._metrics.fetches.inc(len(looks))
        of_group: defaultdict[str, list[Looked]] = defaultdict(list)
        for looked in await self._confirm(looks, layout):
            of_group[looked.watched.target.group].append(looked)
        sizes = {
            group: sum(len(one.look.partitions) for one in of_group[group]) for group in of_group
        }
        await self._link.committed(sizes, partial(self._take, of_group))

    async def _confirm(self, looks: Sequence[Looked], layout: Layout) -> Sequence[Looked]:
        """Ask where partitions really end that seem to have lost messages.

        Returns the looks that go on.
        """
        suspects = {partition for one in looks for partition in one.watched.suspects}
        if not suspects:
            return looks
        try:
            written = await self._link.offsets(layout, suspects, LATEST, open_too=True)
        except ClusterError as error:
            for looked in looks:
                if looked.watched.suspects:
                    self._failed(looked, error)
            return [looked for looked in looks if not looked.watched.suspects]
        for watched, look in looks:
            if watched.suspects:
                self._metrics.rewound.inc(watched.confirm(written, look.now))
        return looks

    async def _take(
        self, of_group: Mapping[str, list[Looked]], answers: Mapping[str, Committed]
    ) -> None:
        """Take in what some groups have committed."""
        fresh = []
        looks = ((looked, found) for group, found in answers.items() for looked in of_group[group])
        for count, (looked, found) in enumerate(looks, 1):
            if isinstance(found, ClusterError):
                self._failed(looked, found)
            elif missing := _missing(looked, found):
                fresh.append(Fresh(looked, found, missing))
            else:
                self._know(looked, found)
            if count % BATCH == 0:
                # Thousands in one go would keep everything else waiting.
                await asyncio.sleep(0)
        if fresh:
            await self._begin(fresh)

    async def _begin(self, fresh: Sequence[Fresh]) -> None:
        """Give groups a start.

        Only a group without members takes commits from outside; members start by themselves.
        """
        empty = await self._link.empty({one.group for one in fresh})
        limit = asyncio.Semaphore(PARALLEL)
        await together(*(self._begin_one(one, empty[one.group], limit) for one in fresh))

    async def _begin_one(
        self, fresh: Fresh, empty: bool | ClusterError, limit: asyncio.Semaphore
    ) -> None:
        looked, commits, missing = fresh
        try:
            if isinstance(empty, ClusterError):
                raise empty
            if empty:
                async with limit:
                    await self._link.commit(fresh.group, missing)
        except ClusterError as error:
            self._failed(looked, error)
            return
        if empty:
            commits = {**commits, **missing}
            self._metrics.seeded.inc(len(missing))
            log.info("group starts", binding=looked.watched.target.key, partitions=len(missing))
        self._know(looked, commits)

    def _know(self, looked: Looked, commits: Commits) -> None:
        watched, look = looked
        try:
            self._metrics.broken_metadata.inc(watched.read(commits, look))
        except Exception as error:
            # Whatever one group's commits lead to must not hide the others' lag.
            log.exception("a look at a group failed", binding=watched.target.key)
            self._failed(looked, ClusterError(repr(error)))
        else:
            self._conclude(watched, look)

    def _failed(self, looked: Looked, error: ClusterError) -> None:
        """A binding's commits could not be read, or not be made."""
        watched, look = looked
        moved = isinstance(error, MovedError)
        trouble = watched.silence(error.trouble, look.now) if moved else error.trouble
        self._tell(watched, Observation(look.now, trouble=trouble))


def _missing(looked: Looked, commits: Commits) -> Commits:
    """The commits that should be there and are not."""
    watched, look = looked
    kept = watched.without_lost(commits)
    return seeds(watched.target, look.partitions, look.ends, look.starts, kept, watched.commits)
