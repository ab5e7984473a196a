"""How soon groups get their start, and that many of them block nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest

from flowbinding_api.spec import StartFrom
from flowbinding_operator.fetcher import BATCH
from flowbinding_operator.kafka import EARLIEST, ClusterError, Layout, MovedError
from flowbinding_operator.lag import Commit, Observation, Partition, Target
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import ClusterPoller
from operator_fakes import FakeLink
from poller_bench import TARGET, Bench

LATE = replace(TARGET, start_from=StartFrom.LATEST)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("target", [TARGET, LATE])
@pytest.mark.parametrize("waiting", [0, 10])
async def test_a_start_that_is_not_told_at_first_is_committed_at_the_next_look(
    bench: Bench, target: Target, waiting: int
) -> None:
    class Shy(FakeLink):
        shy = True

        async def offsets(
            self,
            layout: Layout,
            partitions: Iterable[Partition],
            which: int,
            *,
            open_too: bool = False,
        ) -> dict[Partition, int]:
            found = await super().offsets(layout, partitions, which, open_too=open_too)
            if which == EARLIEST and self.shy:
                self.shy = False
                found.popitem()
            return found

    bench.link.__class__ = Shy
    bench.link.produce("orders", waiting)
    bench.poller.watch(target)
    assert (await bench.tick()).lag is None
    seen = await bench.tick()
    assert seen.lag == (0 if target is LATE else waiting)
    assert len(bench.link.commits["shop.risk"]) == 4


async def test_a_group_that_had_members_is_given_its_start_soon_after_they_left(
    bench: Bench,
) -> None:
    bench.poller.watch(LATE)
    bench.link.members.add("shop.risk")
    bench.link.produce("orders", 10)
    await bench.tick()
    assert "shop.risk" not in bench.link.commits
    # As a worker does that leaves while the operator is about to commit.
    bench.link.members.clear()
    await bench.tick()
    assert (await bench.tick()).lag == 0
    assert len(bench.link.commits["shop.risk"]) == 4


async def test_members_who_never_commit_are_not_asked_about_at_each_look(bench: Bench) -> None:
    bench.link.members.add("shop.risk")
    asked = 0
    for _ in range(20):
        await bench.tick()
        asked += bench.asked("committed")
    assert asked == 10


@pytest.mark.parametrize("what", ["committed", "empty", "commit"])
@pytest.mark.parametrize("error", [MovedError("loading"), ClusterError("no answer")])
async def test_whatever_goes_wrong_at_first_is_tried_again_at_the_next_look(
    bench: Bench, what: str, error: ClusterError
) -> None:
    bench.link.failing[what] = error
    bench.link.produce("orders", 10)
    assert (await bench.tick()).lag is None
    bench.link.failing.clear()
    assert (await bench.tick()).lag == 10
    assert len(bench.link.commits["shop.risk"]) == 4


async def test_many_answers_at_once_keep_nobody_waiting() -> None:
    link, seen = FakeLink(), dict[str, Observation]()
    link.topic("orders", 1, end=7)
    poller = ClusterPoller(link, seen.__setitem__, Metrics(), seconds=2, clock=lambda: 1000.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    groups = 20 * BATCH
    for number in range(groups):
        poller.watch(Target(f"shop/{number}", f"g{number}", ("orders",)))
        link.commits[f"g{number}"] = {Partition("orders", 0): Commit(number % 7)}
    counting = asyncio.create_task(count())
    await poller.tick()
    counting.cancel()
    assert [seen[f"shop/{number}"].lag for number in range(groups)] == [
        7 - number % 7 for number in range(groups)
    ]
    assert turns >= 20


async def test_bindings_of_one_group_share_what_is_read(bench: Bench) -> None:
    bench.link.topic("other", 1, end=5)
    bench.poller.watch(Target("shop/other", TARGET.group, ("other",)))
    bench.link.produce("orders", 3)
    assert (await bench.tick()).lag == 3
    assert bench.seen["shop/other"].lag == 5
    assert bench.asked("committed") == 1
    assert len(bench.link.commits[TARGET.group]) == 5


async def test_while_a_coordinator_moves_the_next_look_comes_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowbinding_operator.poller.HURRY_SECONDS", 0.01)
    link, known, looks = FakeLink(), asyncio.Event(), 0
    link.topic("orders", 1)
    link.failing["committed"] = MovedError("loading")

    def report(_: str, observation: Observation) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            link.failing.clear()
        if observation.lag == 0:
            known.set()

    poller = ClusterPoller(link, report, Metrics(), seconds=3600, clock=time.monotonic)
    poller.watch(TARGET)
    running = asyncio.create_task(poller.run())
    async with asyncio.timeout(10):
        await known.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looks == 4


@pytest.mark.parametrize("seconds", [0, 20])
async def test_it_is_waited_for_as_usual_once_that_lasts(bench: Bench, seconds: int) -> None:
    bench.link.failing["committed"] = MovedError("loading")
    await bench.tick()
    bench.poller._hurry = False
    seen = await bench.tick(seconds=seconds)
    assert (seen.trouble is None) == bench.poller._hurry == (seconds == 0)
