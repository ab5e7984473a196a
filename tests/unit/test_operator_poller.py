"""The lag loop: what it asks Kafka and when, and how it reports trouble."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from flowbinding_api.offsets import Figures
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom
from flowbinding_operator.kafka import ClusterError, Layout, MovedError
from flowbinding_operator.lag import Commit, Observation, Partition, Target, Trouble
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import BATCH, ClusterPoller, LagWatcher
from operator_fakes import FakeLink
from poller_bench import TARGET, Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_first_look_seeds_and_knows_the_lag(bench: Bench) -> None:
    bench.link.produce("orders", 10)
    seen = await bench.tick()
    assert (seen.lag, seen.end, seen.partitions) == (10, 10, 4)
    assert seen.by_topic == {"orders": 10}
    assert len(bench.link.commits["shop.risk"]) == 4


async def test_a_binding_that_starts_at_the_latest_message_has_no_lag(bench: Bench) -> None:
    bench.link.produce("orders", 10)
    bench.poller.watch(replace(TARGET, start_from=StartFrom.LATEST))
    assert (await bench.tick()).lag == 0
    bench.link.produce("orders", 3)
    assert (await bench.tick()).lag == 3


async def test_nobody_commits_for_a_group_that_has_members(bench: Bench) -> None:
    bench.link.members.add("shop.risk")
    bench.link.produce("orders", 10)
    assert (await bench.tick()).lag == 10
    assert "shop.risk" not in bench.link.commits


async def test_a_sleeping_binding_costs_nothing_of_its_own(bench: Bench) -> None:
    await bench.tick()
    for _ in range(60):
        await bench.tick()
        assert bench.asked("committed") == 0
        assert bench.asked("ends") == 1
    await bench.tick(seconds=300)
    assert bench.asked("committed") == 1


async def test_new_messages_and_workers_make_it_look_at_the_commits(bench: Bench) -> None:
    await bench.tick()
    bench.link.produce("orders", 1)
    await bench.tick()
    assert bench.asked("committed") == 1
    bench.poller.watch(replace(TARGET, workers=1))
    await bench.tick()
    assert bench.asked("committed") == 1
    # The last worker is gone for the Deployment, and may still be draining.
    bench.poller.watch(replace(TARGET, workers=0))
    bench.link.commit_all("shop.risk", "orders")
    assert (await bench.tick()).lag == 0


async def test_figures_come_with_the_lag(bench: Bench) -> None:
    bench.link.produce("orders", 4)
    bench.link.commit_all("shop.risk", "orders", Figures(7, 10, seconds_per_message=0.25))
    bench.poller.watch(replace(TARGET, workers=1))
    summary = (await bench.tick()).summary
    assert (summary.slots, summary.seconds_per_message) == (10, 0.25)


async def test_a_missing_topic_is_named_and_found_soon_after_it_is_made(bench: Bench) -> None:
    orders = bench.link.topics.pop("orders")
    seen = await bench.tick()
    assert seen.trouble is not None
    assert seen.trouble.reason is Reason.TOPIC_MISSING
    assert seen.lag is None
    bench.link.topics["orders"] = orders
    seen = await bench.tick(seconds=6)
    assert (seen.trouble, seen.lag) == (None, 0)


async def test_one_missing_topic_does_not_hide_another_bindings_lag(bench: Bench) -> None:
    bench.poller.watch(Target("shop/other", "shop.other", ("nowhere",)))
    bench.link.produce("orders", 2)
    assert (await bench.tick()).lag == 2
    other = bench.seen["shop/other"].trouble
    assert other is not None
    assert "nowhere" in other.message


async def test_a_cluster_that_never_answered_is_reported_at_once(bench: Bench) -> None:
    bench.link.down = ClusterError("no route")
    trouble = (await bench.tick()).trouble
    assert trouble is not None
    assert trouble.reason is Reason.KAFKA_UNREACHABLE


async def test_one_missed_answer_is_no_news_and_two_are(bench: Bench) -> None:
    await bench.tick()
    bench.link.down = ClusterError("no route")
    seen = await bench.tick()
    assert seen.blank
    seen = await bench.tick()
    assert seen.trouble is not None
    assert seen.lag is None
    bench.link.down = None
    assert (await bench.tick()).lag == 0


async def test_a_coordinator_that_moves_is_no_news_for_a_while(bench: Bench) -> None:
    await bench.tick()
    bench.poller.watch(replace(TARGET, workers=1))

    async def moved(_: str) -> dict[Partition, Commit]:
        raise MovedError("loading")

    bench.link.commits_of = moved  # type: ignore[assignment,method-assign]
    assert (await bench.tick()).blank
    await bench.tick(seconds=4)
    assert (await bench.tick(seconds=5)).trouble is not None


async def test_added_partitions_are_seen_and_start_at_their_beginning(bench: Bench) -> None:
    bench.poller.watch(replace(TARGET, start_from=StartFrom.LATEST))
    bench.link.produce("orders", 8)
    await bench.tick()
    bench.link.topics["orders"].append([0, 5])
    seen = await bench.tick(seconds=31)
    assert (seen.partitions, seen.lag) == (5, 5)


async def test_loops_start_and_end_with_their_bindings() -> None:
    links: list[FakeLink] = []

    def connect(_: object) -> FakeLink:
        links.append(FakeLink())
        links[-1].topic("orders", 1)
        return links[-1]

    watcher = LagWatcher(lambda *_: None, Metrics(), seconds=0.01, failed=_raise, connect=connect)
    watcher.watch(TARGET, "a", {})
    watcher.watch(Target("shop/other", "g", ("orders",)), "a", {})
    assert len(links) == 1
    # Other credentials: another client; the old loop goes on for the other binding.
    watcher.watch(TARGET, "b", {})
    assert len(links) == 2
    await asyncio.sleep(0.05)
    watcher.forget("shop/other")
    await asyncio.sleep(0.05)
    assert links[0].closed
    assert not links[1].closed
    await watcher.close()
    assert links[1].closed


async def test_a_cluster_s_series_go_with_the_last_loop_that_asks_it() -> None:
    metrics = Metrics()
    metrics.kafka_requests.labels("kafka:9092", "Metadata").inc()
    watcher = LagWatcher(
        lambda *_: None, metrics, seconds=0.01, failed=_raise, connect=lambda _: FakeLink()
    )
    options = {"bootstrap_servers": "kafka:9092"}
    # The same brokers with two sets of credentials.
    for name in ("a", "b"):
        watcher.watch(replace(TARGET, key=f"shop/{name}"), f"kafka:9092#{name}", options)

    def shown() -> bool:
        return b'cluster="kafka:9092"' in generate_latest(metrics.registry)

    loops = {task.get_name(): task for task in asyncio.all_tasks()}
    watcher.forget("shop/a")
    await asyncio.wait([loops["lag kafka:9092#a"]])
    assert shown(), "b's loop goes on"
    watcher.forget("shop/b")
    await asyncio.wait([loops["lag kafka:9092#b"]])
    assert not shown()
    await watcher.close()


async def test_a_dead_cluster_delays_nobody() -> None:
    good = FakeLink()
    good.topic("orders", 1)
    bad = FakeLink()

    async def hang(_: object) -> object:
        await asyncio.sleep(3600)
        raise AssertionError

    bad.layout = hang  # type: ignore[assignment,method-assign]
    seen: list[str] = []
    links = iter((bad, good))
    watcher = LagWatcher(
        lambda key, _: seen.append(key),
        Metrics(),
        seconds=0.01,
        failed=_raise,
        connect=lambda _: next(links),
    )
    watcher.watch(Target("shop/bad", "g", ("orders",)), "bad", {})
    watcher.watch(TARGET, "good", {})
    await asyncio.sleep(0.2)
    assert seen.count("shop/risk") >= 3
    assert "shop/bad" not in seen
    await watcher.close()


async def test_what_one_cluster_leads_to_ends_no_loop() -> None:
    seen: dict[str, Observation] = {}
    link, good = FakeLink(), FakeLink()
    good.topic("orders", 1)
    links = iter((link, good))

    async def broken(_: object) -> object:
        link.requests.append("layout")
        raise UnicodeError("label empty or too long")

    link.layout = broken  # type: ignore[assignment,method-assign]
    watcher = LagWatcher(
        seen.__setitem__, Metrics(), seconds=0.01, failed=_raise, connect=lambda _: next(links)
    )
    watcher.watch(Target("shop/typo", "g", ("orders",)), "a", {})
    watcher.watch(TARGET, "b", {})
    await asyncio.sleep(0.1)
    trouble = seen["shop/typo"].trouble
    assert trouble is not None
    assert trouble.reason is Reason.KAFKA_UNREACHABLE
    assert "label empty or too long" in trouble.message
    # The next try waits, and the neighbour notices nothing.
    assert link.requests == ["layout"]
    assert seen[TARGET.key].lag == 0
    await watcher.close()


async def test_a_loop_that_dies_is_reported() -> None:
    failures: list[BaseException] = []

    def broken(_: str, __: Observation) -> None:
        raise ZeroDivisionError

    watcher = LagWatcher(
        broken, Metrics(), seconds=0.01, failed=failures.append, connect=lambda _: FakeLink()
    )
    watcher.watch(TARGET, "a", {})
    await asyncio.sleep(0.05)
    assert isinstance(failures[0], ZeroDivisionError)
    await watcher.close()


class Held(FakeLink):
    """Kafka answers for the commits only when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def commits_of(self, group: str) -> dict[Partition, Commit]:
        self.asked.set()
        await self.go.wait()
        return await super().commits_of(group)


async def held(seen: dict[str, Observation]) -> tuple[Held, ClusterPoller, asyncio.Task[None]]:
    """A tick that has asked about TARGET, and has no answer yet."""
    link = Held()
    link.topic("orders", 1, end=5)
    link.topic("old", 1, end=5_000_000)
    poller = ClusterPoller(link, seen.__setitem__, Metrics(), seconds=2, clock=lambda: 1000.0)
    poller.watch(TARGET)
    tick = asyncio.create_task(poller.tick())
    await link.asked.wait()
    return link, poller, tick


async def test_a_tick_in_flight_says_nothing_of_a_binding_that_is_gone() -> None:
    metrics = Metrics()
    seen: dict[str, Observation] = {}
    link, poller, tick = await held(seen)
    poller._report = lambda key, observation: metrics.observed(key, observation, 1.0)
    poller.watched.pop(TARGET.key)
    metrics.forget(TARGET.key)
    link.go.set()
    await tick
    assert b'name="risk"' not in generate_latest(metrics.registry)


@pytest.mark.parametrize(
    "changed", [replace(TARGET, topics=("orders", "old")), replace(TARGET, group="other")]
)
async def test_a_tick_in_flight_says_nothing_of_a_target_that_has_changed(changed: Target) -> None:
    seen: dict[str, Observation] = {}
    link, poller, tick = await held(seen)
    poller.watch(changed)
    link.go.set()
    await tick
    assert seen == {}
    await poller.tick()
    assert seen[TARGET.key].by_topic.keys() == set(changed.topics)


async def test_what_one_group_leads_to_hides_nobody_else_s_lag() -> None:
    class Odd(FakeLink):
        async def commits_of(self, group: str) -> dict[Partition, Commit]:
            if group == "odd":
                return {Partition("orders", 0): Commit(0, 7)}  # type: ignore[arg-type]
            return await super().commits_of(group)

    link, seen = Odd(), dict[str, Observation]()
    link.topic("orders", 1)
    poller = ClusterPoller(link, seen.__setitem__, Metrics(), seconds=2, clock=lambda: 1000.0)
    poller.watch(Target("shop/odd", "odd", ("orders",)))
    poller.watch(TARGET)
    await poller.tick()
    assert seen[TARGET.key].lag == 0
    trouble = seen["shop/odd"].trouble
    assert trouble is not None
    assert (trouble.reason, seen["shop/odd"].lag) == (Reason.KAFKA_UNREACHABLE, None)


async def test_of_many_new_bindings_not_each_has_all_others_looked_at() -> None:
    now = 1000.0

    class Slow(FakeLink):
        async def layout(self, topics: Iterable[str]) -> Layout:
            nonlocal now
            now += 0.02
            return await super().layout(topics)

    link, seen, all_seen = Slow(), dict[str, Observation](), asyncio.Event()

    def report(key: str, observation: Observation) -> None:
        seen[key] = observation
        if len(seen) == 50:
            all_seen.set()

    poller = ClusterPoller(link, report, Metrics(), seconds=2, clock=lambda: now)
    running = asyncio.create_task(poller.run())
    for number in range(50):
        topic = f"orders-{number}"
        link.topic(topic, 1)
        poller.watch(Target(f"shop/{number}", f"g{number}", (topic,)))
        for _ in range(20):
            await asyncio.sleep(0)
    await all_seen.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert link.requests.count("ends") <= 10


async def test_a_tick_that_is_cut_short_leaves_nothing_half_begun() -> None:
    link = FakeLink()
    link.topic("orders", 1)
    poller = ClusterPoller(link, lambda *_: None, Metrics(), seconds=2, clock=lambda: 1000.0)
    for number in range(2 * BATCH):
        poller.watch(Target(f"shop/{number}", f"g{number}", ("orders",)))
    tick = asyncio.create_task(poller.tick())
    # It is among its bindings now, with commits still to be asked for.
    await asyncio.sleep(0)
    assert not tick.done()
    tick.cancel()
    await asyncio.gather(tick, return_exceptions=True)
    assert not [request for request in link.requests if request.startswith("committed")]
    # A request that was made and not begun is a warning, and so an error here.
    gc.collect()


def _raise(error: BaseException) -> None:
    raise error


async def test_a_missing_topic_of_the_output_is_told_and_leaves_the_lag_alone(bench: Bench) -> None:
    bench.link.topic("answers", 2)
    bench.link.produce("orders", 3)
    bench.poller.watch(replace(TARGET, written=("answers", "review")))
    seen = await bench.tick()
    assert (seen.lag, seen.partitions, seen.trouble) == (3, 4, None)
    assert seen.output is not None
    assert (seen.output.reason, seen.output.message) == (
        Reason.TOPIC_MISSING,
        "review does not exist",
    )
    assert all(partition.topic == "orders" for partition in bench.poller._layout.leaders)
    bench.link.topic("review", 1)
    assert (await bench.tick(seconds=5)).output is None


async def test_a_route_that_is_added_is_looked_for(bench: Bench) -> None:
    assert (await bench.tick()).output is None
    bench.poller.watch(replace(TARGET, written=("new",)))
    assert (await bench.tick()).output is not None


async def test_brokers_that_restart_are_no_trouble_of_the_output(bench: Bench) -> None:
    bench.link.troubles["answers"] = Trouble(Reason.KAFKA_UNREACHABLE, "no leader")
    bench.poller.watch(replace(TARGET, written=("answers",)))
    assert (await bench.tick()).output is None
