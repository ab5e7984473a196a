"""The flood guard: when a partition stops, what is tried then, and how it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.spec import Ordering
from flowbinding_worker.control.flood import ENOUGH, TRIAL_SECONDS, Floods
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.scheduler import Scheduler
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.trouble import Trouble

P0, P1 = Partition("in", 0), Partition("in", 1)


class Bench:
    """Two partitions with as many messages as are asked for."""

    def __init__(self, slots: int = 1, *, enabled: bool = True) -> None:
        self.trouble = Trouble()
        self.scheduler = Scheduler(Ordering.NONE, slots)
        self.scheduler.assign([P0, P1])
        self.floods = Floods(self.scheduler, self.trouble, enabled=enabled)
        self.now = 0.0

    def add(self, partition: Partition, count: int = 1) -> None:
        for n in range(count):
            self.scheduler.add(Job(Record(partition, n, None, b"", (), 0), Tracker()))

    def take(self) -> Job | None:
        self.scheduler.wake(self.now)
        self.floods.admit(self.now)
        job = self.scheduler.take()
        if job is not None:
            self.floods.began(job, self.now)
        return job

    def must_take(self) -> Job:
        job = self.take()
        assert job is not None
        return job

    def end(self, job: Job, *, dead: bool) -> None:
        self.scheduler.finish(job)
        self.floods.ended(job, dead=dead, now=self.now)

    def flood(self, partition: Partition, good: int = 0, bad: int = ENOUGH) -> None:
        self.add(partition, good + bad)
        for n in range(good + bad):
            self.end(self.must_take(), dead=n >= good)


def test_a_hundred_dead_letters_in_a_row_are_enough_whatever_came_before() -> None:
    bench = Bench()
    bench.flood(P0, good=500, bad=ENOUGH - 1)
    assert bench.trouble.reason == ""
    bench.flood(P0, bad=1)
    assert bench.trouble.reason == "DeadLetterFlood"
    assert "in-0: 100 of the last 200 messages" in bench.trouble.message


def test_more_than_half_of_the_last_two_hundred() -> None:
    bench = Bench()
    bench.add(P0, 400)
    for n in range(200):
        bench.end(bench.must_take(), dead=n % 2 == 0)
    assert bench.trouble.reason == "", "half is not more than half"
    bench.end(bench.must_take(), dead=True)
    bench.end(bench.must_take(), dead=True)
    assert bench.trouble.reason == "DeadLetterFlood"


def test_few_messages_say_nothing() -> None:
    bench = Bench()
    bench.flood(P0, bad=ENOUGH - 1)
    bench.flood(P0, good=1, bad=0)
    assert bench.trouble.reason == "DeadLetterFlood", "99 of 100"
    few = Bench()
    few.flood(P0, bad=ENOUGH - 1)
    assert few.trouble.reason == ""


def test_other_partitions_go_on() -> None:
    bench = Bench()
    bench.flood(P0)
    bench.end(bench.must_take(), dead=True) if bench.scheduler.buffered else None
    bench.add(P1, 3)
    for _ in range(3):
        job = bench.must_take()
        assert job.partition == P1
        bench.end(job, dead=False)
    assert bench.trouble.reason == "DeadLetterFlood"


def test_one_message_at_once_and_then_one_a_minute() -> None:
    bench = Bench(slots=5)
    bench.flood(P0)
    bench.add(P0, 10)
    tried = []
    while bench.now < 10 * TRIAL_SECONDS:
        while (job := bench.take()) is not None:
            tried.append(bench.now)
            bench.end(job, dead=True)
        assert bench.floods.next_time() is not None
        bench.now += 1.0
    assert tried == [n * TRIAL_SECONDS for n in range(10)]


def test_a_success_ends_it_at_once_and_what_was_is_forgotten() -> None:
    bench = Bench(slots=5)
    bench.flood(P0)
    bench.add(P0, 150)
    bench.end(bench.must_take(), dead=True)
    assert bench.take() is None
    bench.now += TRIAL_SECONDS
    bench.end(bench.must_take(), dead=False)
    assert bench.trouble.reason == ""
    assert bench.floods.next_time() is None
    for _ in range(ENOUGH - 1):
        bench.end(bench.must_take(), dead=True)
    assert bench.trouble.reason == ""
    bench.end(bench.must_take(), dead=True)
    assert bench.trouble.reason == "DeadLetterFlood"


def test_what_ran_before_the_stop_decides_nothing() -> None:
    bench = Bench(slots=3)
    bench.add(P0, ENOUGH + 10)
    early = [bench.must_take(), bench.must_take()]
    for _ in range(ENOUGH):
        bench.end(bench.must_take(), dead=True)
    for job in early:
        bench.end(job, dead=False)
    assert bench.trouble.reason == "DeadLetterFlood"
    bench.must_take()
    assert bench.take() is None, "one trial at a time"


def test_a_trial_that_is_retried_comes_to_its_end_first() -> None:
    bench = Bench(slots=3)
    bench.flood(P0)
    bench.add(P0, 5)
    trial = bench.must_take()
    bench.scheduler.park(trial, bench.now + 2)
    bench.floods.parked(trial, bench.now + 2)
    assert bench.take() is None
    assert bench.floods.next_time() == bench.now + 2
    bench.now += 2
    assert bench.must_take() is trial
    bench.end(trial, dead=True)
    assert bench.take() is None
    assert (bench.floods.next_time() or 0.0) >= TRIAL_SECONDS


def test_a_trial_that_is_filtered_out_lets_the_next_try() -> None:
    bench = Bench(slots=3)
    bench.flood(P0)
    bench.add(P0, 3)
    first = bench.must_take()
    assert bench.take() is None
    bench.scheduler.finish(first)
    bench.floods.skipped(first, bench.now)
    assert bench.must_take() is not first


def test_a_new_assignment_begins_anew() -> None:
    bench = Bench()
    bench.flood(P0)
    bench.scheduler.assign([P0])
    bench.floods.forget([P0])
    assert bench.trouble.reason == ""
    bench.flood(P0, bad=ENOUGH - 1)
    assert bench.trouble.reason == ""


def test_switched_off() -> None:
    bench = Bench(enabled=False)
    bench.flood(P0, bad=1000)
    assert bench.trouble.reason == ""


@settings(max_examples=100)
@given(
    outcomes=st.lists(st.booleans(), min_size=1, max_size=600),
    slots=st.integers(1, 5),
    retried=st.integers(0, 3),
)
def test_everything_is_done_in_the_end_and_floods_are_slow(
    outcomes: list[bool], slots: int, retried: int
) -> None:
    bench = Bench(slots)
    bench.add(P0, len(outcomes))
    dead_at: list[float] = []
    running: list[tuple[Job, bool]] = []
    left = list(outcomes)
    failures: dict[Job, int] = {}
    while left or running or bench.scheduler.buffered:
        while (job := bench.take()) is not None:
            running.append((job, left.pop() if job not in failures else True))
        if not running:
            due = [t for t in (bench.floods.next_time(), bench.scheduler.next_due()) if t]
            assert due, "something is left, and nothing will ever run"
            bench.now = max(bench.now, min(due))
            continue
        job, dead = running.pop(0)
        if dead and failures.setdefault(job, 0) < retried:
            failures[job] += 1
            bench.scheduler.park(job, bench.now + 1)
            bench.floods.parked(job, bench.now + 1)
            continue
        if dead:
            dead_at.append(bench.now)
        bench.end(job, dead=dead)
    for start in dead_at:
        burst = [at for at in dead_at if start <= at < start + 30]
        if not any(not dead for dead in outcomes):
            assert len(burst) <= ENOUGH + slots + 2


@pytest.mark.parametrize("partition", [P0, P1])
def test_lanes_that_are_gone_are_left_alone(partition: Partition) -> None:
    bench = Bench()
    bench.flood(partition)
    bench.scheduler.revoke([partition])
    bench.now += TRIAL_SECONDS
    assert bench.take() is None
