"""Whether more workers only make the backend slower.

A scale-up is an experiment. If afterwards, with all workers up and messages waiting, hardly more
gets done while a run takes longer by about as much as there are more of them, the backend is what
is full. What it does then, it would do for as many workers as would keep it busy at its usual
speed, so no more of them are wanted until the backlog is gone or some time has passed: the next
experiment.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from flowbinding_operator.scaling.sample import Sample

MEASURE_SECONDS = 45.0
"""Over which what gets done is counted."""
GAIN = 0.25
"""Less of the expected gain than this is hardly any."""
SLOWER = 0.3
"""A run has to take longer by this share of what the number of workers rose by."""
SLOWEST = 0.5
"""And by this in any case: less may be noise, and taking noise for a full backend costs time."""
RETRY_SECONDS = 600.0
"""After which more workers may be tried again: twice as long after each try in vain."""
LONGEST_RETRY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Work:
    """What was done at one time.

    Attributes:
        done: Messages done since ever.
        waiting: Messages not done.
        able: Messages a second that all slots together could do; 0 while unknown.
    """

    time: float
    done: int
    waiting: int
    workers: int
    seconds: float | None
    able: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A scale-up that is being judged.

    Attributes:
        rate: Messages a second that were done before, or could have been.
        seconds: That a run took before.
        complete_at: When all workers were up; None before.
    """

    workers: int
    target: int
    rate: float
    seconds: float
    complete_at: float | None = None


class Window:
    """What was done at the times that are measured over, oldest first, in little space."""

    __slots__ = ("done", "times", "waiting", "workers")

    def __init__(self) -> None:
        self.times = array("d")
        self.done = array("q")
        self.waiting = array("q")
        self.workers = array("q")

    def add(self, work: Work) -> None:
        """Add the newest, and forget all but one of those that are too old."""
        old = 0
        while old + 1 < len(self.times) and self.times[old + 1] <= work.time - MEASURE_SECONDS:
            old += 1
        self._forget(old)
        self.times.append(work.time)
        self.done.append(work.done)
        self.waiting.append(work.waiting)
        self.workers.append(work.workers)

    def clear(self) -> None:
        """Forget everything."""
        self._forget(len(self.times))

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    @property
    def rate(self) -> float:
        """Messages a second that were done."""
        return max(0.0, self.done[-1] - self.done[0]) / max(self.seconds, 1.0)

    def _forget(self, count: int) -> None:
        for values in (self.times, self.done, self.waiting, self.workers):
            del values[:count]


@dataclass(slots=True)
class Saturation:
    """Judges scale-ups of one binding.

    Attributes:
        full_since: Since when the backend counts as full; None while it does not.
        rate: Messages a second that it does when it is full.
        seconds: That a run takes when it is not.
    """

    full_since: float | None = None
    rate: float = 0.0
    seconds: float = 0.0
    _retry: float = RETRY_SECONDS
    _trial: Trial | None = None
    _before: int | None = None
    _work: Window = field(default_factory=Window)

    def clear(self) -> None:
        """Forget everything."""
        self.full_since = self._trial = None
        self._work.clear()

    def observe(self, sample: Sample, replicas: int | None, seconds: float | None) -> None:
        """Take in a sample, seen while `replicas` are set to run and a run takes `seconds`."""
        unfinished = sample.unfinished
        if sample.end is None or unfinished is None or sample.workers is None:
            # A look that failed says nothing; `_begin` sees later what has changed meanwhile.
            return
        done = sample.end - unfinished
        able = sample.workers * sample.slots / seconds if sample.slots and seconds else 0.0
        work = Work(sample.time, done, unfinished, sample.workers, seconds, able)
        self._work.add(work)
        self._begin(replicas, work)
        self._judge(work)
        self._recover(work)

    def observed_rate(self, replicas: int | None) -> float | None:
        """Messages a second that one worker does when it has enough to do.

        None unless, for the whole time that is measured, the same workers had messages waiting.
        """
        work = self._work
        if not replicas or work.seconds < 0.9 * MEASURE_SECONDS:
            return None
        if any(workers != replicas for workers in work.workers):
            return None
        return work.rate / replicas

    @property
    def least_waiting(self) -> int:
        """The fewest messages that waited over the time that is measured."""
        return min(self._work.waiting, default=0)

    def _begin(self, replicas: int | None, work: Work) -> None:
        before, self._before = self._before, replicas
        if replicas is None or before is None or replicas == before:
            return
        self._trial = None
        # Compared with what is up now, of several steps in a row the last one counts; of what was
        # added, some may be up already.
        up = min(work.workers, before)
        if replicas <= before or up == 0 or not work.seconds:
            return
        rate = max(self._work.rate, work.able * up / work.workers)
        if rate > 0:
            self._trial = Trial(up, replicas, rate, work.seconds)

    def _judge(self, work: Work) -> None:
        trial = self._trial
        if trial is None or work.seconds is None:
            return
        if work.workers < trial.target:
            self._trial = Trial(trial.workers, trial.target, trial.rate, trial.seconds)
            return
        if trial.complete_at is None:
            self._trial = Trial(trial.workers, trial.target, trial.rate, trial.seconds, work.time)
            return
        if work.time - trial.complete_at < MEASURE_SECONDS:
            return
        self._trial = None
        growth = trial.target / trial.workers - 1
        gained = self._work.rate / trial.rate - 1
        slower = work.seconds / trial.seconds - 1
        starved = self.least_waiting < work.workers
        if not starved and gained < GAIN * growth and slower > max(SLOWEST, SLOWER * growth):
            self.full_since = work.time
            self.rate, self.seconds = self._work.rate, trial.seconds

    def _recover(self, work: Work) -> None:
        if self.full_since is None:
            return
        if work.waiting == 0:
            self.full_since, self._retry = None, RETRY_SECONDS
        elif work.time - self.full_since >= self._retry:
            self.full_since = None
            self._retry = min(2 * self._retry, LONGEST_RETRY_SECONDS)
