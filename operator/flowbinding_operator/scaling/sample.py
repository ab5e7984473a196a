"""What one poll saw of a binding."""

from __future__ import annotations

from dataclasses import dataclass


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
