"""The work queue: one run at a time for a key, no event lost, back-off for failures."""

from __future__ import annotations

import asyncio

import pytest

from flowbinding_operator.queue import MAX_BACKOFF, Schedule, WorkQueue


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
