"""The work queue: one run at a time for a key, no event lost, back-off for failures."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_operator.lanes import MAX_BACKOFF, Lane, Schedule
from flowbinding_operator.queue import WorkQueue


def test_a_key_added_twice_runs_once() -> None:
    schedule = Schedule()
    schedule.add("a", 0)
    schedule.add("a", 0)
    assert schedule.pop(0) == "a"
    schedule.done("a")
    assert schedule.pop(0) is None


def test_the_earlier_time_wins() -> None:
    schedule = Schedule()
    schedule.add("a", 10)
    schedule.add("a", 5)
    schedule.add("a", 20)
    assert schedule.pop(4.9) is None
    assert schedule.next_due() == 5
    assert schedule.pop(5) == "a"
    schedule.done("a")
    assert schedule.next_due() is None


def test_a_key_added_while_it_runs_runs_again_afterwards_and_never_at_once() -> None:
    schedule = Schedule()
    schedule.add("a", 0)
    assert schedule.pop(0) == "a"
    schedule.add("a", 0)
    assert schedule.pop(0) is None
    schedule.done("a")
    assert schedule.pop(0) == "a"


def test_keys_come_in_the_order_they_are_due() -> None:
    schedule = Schedule()
    for key, when in (("c", 3), ("a", 1), ("b", 2)):
        schedule.add(key, when)
    assert [schedule.pop(9) for _ in range(3)] == ["a", "b", "c"]


def test_failures_back_off_exponentially_up_to_a_limit_and_success_forgets_them() -> None:
    schedule = Schedule()
    waits = [schedule.failed("a") for _ in range(12)]
    assert waits[:4] == [0.5, 1, 2, 4]
    assert waits[-1] == MAX_BACKOFF
    schedule.succeeded("a")
    assert schedule.failed("a") == 0.5


def drained(schedule: Schedule, now: float) -> list[str]:
    """What can be taken at that time, in its order."""
    taken = []
    while (key := schedule.pop(now)) is not None:
        taken.append(key)
    return taken


def test_who_needs_workers_is_served_before_numbers_however_many_wait() -> None:
    schedule = Schedule(pace=10)
    for number in range(5000):
        schedule.add(f"number-{number}", 0, Lane.LATER)
    schedule.add("new", 0)
    schedule.add("burst", 1, Lane.NOW)
    assert drained(schedule, 2) == ["burst", "new", "number-0"]
    assert schedule.depth(2) == 4999


def test_numbers_wait_for_others_only_so_long() -> None:
    schedule, patience = Schedule(), Lane.LATER.patience
    schedule.add("number", 0, Lane.LATER)
    schedule.add("early", patience, Lane.NOW)
    schedule.add("late", patience + 1, Lane.NOW)
    assert drained(schedule, patience + 1) == ["early", "number", "late"]


def test_haste_that_comes_later_counts_and_the_lack_of_it_does_not() -> None:
    schedule = Schedule()
    schedule.add("a", 0, Lane.LATER)
    schedule.add("b", 0, Lane.SOON)
    schedule.add("a", 0, Lane.NOW)
    schedule.add("b", 0, Lane.LATER)
    schedule.add("c", 1, Lane.SOON)
    assert drained(schedule, 1) == ["a", "b", "c"]


def test_later_keys_begin_at_a_pace_and_the_schedule_says_when_the_next_one_does() -> None:
    schedule = Schedule(pace=4)
    for key in ("a", "b", "c"):
        schedule.add(key, 0, Lane.LATER)
    assert (drained(schedule, 1), schedule.next_due()) == (["a"], 1.25)
    assert (drained(schedule, 1.25), schedule.next_due()) == (["b"], 1.5)
    # Time that passed with nothing to do is not made up for.
    assert drained(schedule, 9) == ["c"]
    assert schedule.next_due() is None


def test_who_waits_can_be_counted_while_more_come() -> None:
    schedule = Schedule()
    schedule.add("a", 0)

    class Meanwhile(float):
        """A time that something else happens in: metrics are read in a thread of their own."""

        def __ge__(self, other: float) -> bool:
            schedule.add("b", 0)
            return super().__ge__(other)

    assert schedule.depth(Meanwhile(1)) == 1
    assert schedule.depth(1) == 2


Step = tuple[str, str, float, Lane]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "pop", "done", "wait"]),
        st.sampled_from("abcdef"),
        st.sampled_from([0.0, 0.01, 0.5, 4.0, 40.0]),
        st.sampled_from(Lane),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_key_is_lost_run_twice_at_once_or_before_its_time(steps: list[Step]) -> None:
    schedule, now, running = Schedule(pace=2), 0.0, set[str]()
    # Of each key, when each of its additions is due.
    waiting: dict[str, list[float]] = {}

    def take() -> str | None:
        key = schedule.pop(now)
        if key is not None:
            assert key not in running
            assert min(waiting.pop(key)) <= now
            running.add(key)
        return key

    for kind, key, seconds, lane in steps:
        if kind == "add":
            when = now + seconds
            schedule.add(key, when, lane)
            waiting.setdefault(key, []).append(when)
        elif kind == "pop":
            take()
        elif kind == "done" and key in running:
            running.discard(key)
            schedule.done(key)
        elif kind == "wait":
            now += seconds
    for key in sorted(running):
        schedule.done(key)
    running.clear()
    empty = 0
    while (due := schedule.next_due()) is not None:
        now = max(now, due)
        empty = 0 if (found := take()) else empty + 1
        assert empty < 2
        running.clear()
        schedule.done(found or "")
    assert not waiting
    assert len(schedule) == 0


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 6.0, 50.0]), st.sampled_from(Lane))))
def test_nobody_is_overtaken_by_more_than_the_patience(
    keys: list[tuple[float, Lane]],
) -> None:
    schedule = Schedule(pace=math.inf)
    for number, (due, lane) in enumerate(keys):
        schedule.add(str(number), due, lane)
    turns = [keys[int(key)][0] + keys[int(key)][1].patience for key in drained(schedule, 50)]
    assert turns == sorted(turns)
    assert len(turns) == len(keys)


async def _run_until(queue: WorkQueue, done: asyncio.Event) -> None:
    task = asyncio.create_task(queue.run())
    try:
        async with asyncio.timeout(5):
            await done.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_many_events_of_one_key_never_run_at_once_and_the_last_is_seen() -> None:
    seen: list[int] = []
    running = value = 0
    done = asyncio.Event()

    async def handle(_: str) -> None:
        nonlocal running
        running += 1
        assert running == 1
        seen.append(value)
        await asyncio.sleep(0.01)
        running -= 1
        if seen[-1] == 50:
            done.set()

    queue = WorkQueue(handle)

    async def events() -> None:
        nonlocal value
        for number in range(1, 51):
            value = number
            queue.add("a")
            await asyncio.sleep(0.001)

    feeder = asyncio.create_task(events())
    await _run_until(queue, done)
    await feeder
    assert len(seen) < 50


async def test_concurrency_is_bounded() -> None:
    running = highest = finished = 0
    done = asyncio.Event()

    async def handle(_: str) -> None:
        nonlocal running, highest, finished
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.005)
        running -= 1
        finished += 1
        if finished == 20:
            done.set()

    queue = WorkQueue(handle, concurrency=3)
    for number in range(20):
        queue.add(str(number))
    await _run_until(queue, done)
    assert highest == 3


async def test_a_failure_is_tried_again_and_stops_nobody_else() -> None:
    runs: dict[str, int] = {"bad": 0, "good": 0}
    done = asyncio.Event()

    async def handle(key: str) -> float | None:
        runs[key] += 1
        if key == "bad" and runs[key] == 1:
            raise RuntimeError("no")
        if key == "bad":
            done.set()
        return None

    queue = WorkQueue(handle)
    queue.add("bad")
    queue.add("good")
    await _run_until(queue, done)
    assert runs == {"bad": 2, "good": 1}


async def test_a_handler_can_ask_to_run_again_later() -> None:
    times: list[float] = []
    done = asyncio.Event()

    async def handle(_: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            done.set()
            return None
        return 0.05

    queue = WorkQueue(handle)
    queue.add("a")
    await _run_until(queue, done)
    assert times[1] - times[0] == pytest.approx(0.05, abs=0.04)
