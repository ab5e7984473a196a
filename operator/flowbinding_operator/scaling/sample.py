"""What one poll saw of a binding, and what is kept of earlier ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, overload

UNKNOWN = -1


class Arrived(Protocol):
    """How much had arrived at one time; None when unknown."""

    @property
    def time(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll saw. What is None is unknown.

    Attributes:
        time: Seconds on any steady clock.
        lag: Messages that are not committed.
        end: Sum of the end offsets, for arrivals.
        partitions: Partitions of all topics.
        seconds_per_message: Measured by the workers.
        unix: Seconds since the epoch, for schedules.
        ends: End offset of each partition.
        done: Of each partition, its start plus what is done: the committed offset, and as many more
            as are done beyond it.
        workers: Workers that are up.
        slots: Runs that one worker may have in flight: fewer than the spec says while the backend
            asks for less.
        trouble: What workers complain about; empty when nothing.
    """

    time: float
    lag: int | None = None
    end: int | None = None
    partitions: int | None = None
    seconds_per_message: float | None = None
    unix: float | None = None
    ends: tuple[int, ...] = ()
    done: tuple[int, ...] = ()
    workers: int | None = None
    slots: float | None = None
    trouble: str = ""

    @property
    def per_partition(self) -> bool:
        """Whether it tells of each partition."""
        return bool(self.ends) and len(self.ends) == len(self.done) == self.partitions

    @property
    def unfinished(self) -> int | None:
        """Messages that are not done; the lag counts also those done beyond an unfinished one."""
        if not self.per_partition:
            return self.lag
        return sum(max(0, end - done) for end, done in zip(self.ends, self.done, strict=True))


class Look(NamedTuple):
    """What is kept of a sample."""

    time: float
    end: int | None


class Past(Sequence[Look]):
    """Samples of some minutes, oldest first: 16 bytes for each, of thousands of bindings."""

    __slots__ = ("_ends", "_times")

    def __init__(self) -> None:
        self._times = array("d")
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._times)

    @overload
    def __getitem__(self, index: int) -> Look: ...
    @overload
    def __getitem__(self, index: slice) -> list[Look]: ...
    def __getitem__(self, index: int | slice) -> Look | list[Look]:
        """One or several of them."""
        if isinstance(index, slice):
            return [
                _look(*pair) for pair in zip(self._times[index], self._ends[index], strict=True)
            ]
        return _look(self._times[index], self._ends[index])

    def __iter__(self) -> Iterator[Look]:
        return map(_look, self._times, self._ends)

    def known(self) -> list[tuple[float, int]]:
        """(time, end) where the end is known, without an object for each look."""
        pairs = zip(self._times, self._ends, strict=True)
        return [pair for pair in pairs if pair[1] != UNKNOWN]

    def append(self, time: float, end: int | None) -> None:
        """Add the newest."""
        self._times.append(time)
        self._ends.append(UNKNOWN if end is None else end)

    def forget_before(self, time: float) -> None:
        """Forget what is older, but for the last look until then."""
        count = 0
        while count + 1 < len(self._times) and self._times[count + 1] <= time:
            count += 1
        del self._times[:count], self._ends[:count]

    def clear(self) -> None:
        """Forget everything."""
        del self._times[:], self._ends[:]


def known(samples: Sequence[Arrived]) -> list[tuple[float, int]]:
    """(time, end) of the samples in which the end is known, oldest first."""
    if isinstance(samples, Past):
        return samples.known()
    return [(sample.time, sample.end) for sample in samples if sample.end is not None]


def _look(time: float, end: int) -> Look:
    return Look(time, None if end == UNKNOWN else end)
