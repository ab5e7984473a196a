"""What a lag loop makes of topics that are created anew, and of sleepers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom
from flowbinding_operator.lag import Commit, Observation, Partition, Target
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import ClusterPoller
from operator_fakes import FakeLink
from poller_bench import TARGET, Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def slept(bench: Bench) -> None:
    """Partitions end at 8, 2, 2 and 2; everything is done and committed; nobody works."""
    bench.link.produce("orders", 8)
    bench.link.topics["orders"][0][1] = 8
    bench.link.commit_all("shop.risk", "orders")
    assert (await bench.tick()).lag == 0


@pytest.mark.parametrize("start_from", StartFrom)
async def test_a_topic_created_anew_between_two_looks_is_worked_off_from_its_beginning(
    bench: Bench, start_from: StartFrom
) -> None:
    bench.poller.watch(replace(TARGET, start_from=start_from))
    await slept(bench)
    # With the topic, Kafka deletes what was committed of it. Other partitions hide it well.
    del bench.link.commits["shop.risk"]
    bench.link.topic("orders", 4, end=3)
    assert (await bench.tick()).lag == 12
    assert {c.offset for c in bench.link.commits["shop.risk"].values()} == {0}


@pytest.mark.parametrize("start_from", StartFrom)
async def test_a_topic_that_was_gone_is_worked_off_from_its_beginning(
    bench: Bench, start_from: StartFrom
) -> None:
    bench.poller.watch(replace(TARGET, start_from=start_from))
    await slept(bench)
    orders = bench.link.topics.pop("orders")
    del bench.link.commits["shop.risk"]
    assert (await bench.tick(seconds=31)).trouble is not None
    bench.link.topics["orders"] = [[0, end + 1] for _, end in orders]
    assert (await bench.tick(seconds=6)).lag == 8 + 2 + 2 + 2 + 4


async def test_start_offsets_of_the_old_topic_do_not_hide_messages_of_the_new(
    bench: Bench,
) -> None:
    bench.link.topic("orders", 4, end=50, start=40)
    await bench.tick()
    del bench.link.commits["shop.risk"]
    bench.link.topic("orders", 4, end=45)
    assert (await bench.tick()).lag == 4 * 45


async def test_a_commit_beyond_the_end_starts_the_group_anew_and_is_told(bench: Bench) -> None:
    await slept(bench)
    bench.link.topic("orders", 4, end=5)
    # For a moment it may be a new leader that has not caught up.
    seen = await bench.tick()
    assert (seen.lag, seen.rewound) == (9, None)
    for _ in range(5):
        seen = await bench.tick()
    assert seen.lag == 5 + 9
    assert seen.rewound is not None
    assert seen.rewound.reason is Reason.OFFSET_OUT_OF_RANGE
    assert "offset 8 was committed of partition 0 of topic 'orders', which ends at 5" in (
        seen.rewound.message
    )
    # Only that one: the others' commits are in their ranges.
    committed = sorted(c.offset for c in bench.link.commits["shop.risk"].values())
    assert committed == [0, 2, 2, 2]
    for _ in range(16):
        seen = await bench.tick()
    assert (seen.lag, seen.rewound) == (14, None)
    assert bench.count("offsets_out_of_range_total") == 1


async def test_a_commit_within_an_open_transaction_is_in_range(bench: Bench) -> None:
    # The group's last member read uncommitted messages.
    await slept(bench)
    bench.link.open[Partition("orders", 0)] = 3
    for _ in range(20):
        seen = await bench.tick()
    assert (seen.lag, seen.rewound) == (0, None)
    assert bench.link.commits["shop.risk"][Partition("orders", 0)].offset == 8
    bench.link.open.clear()
    assert (await bench.tick()).lag == 0


async def test_members_start_anew_by_themselves_and_their_lag_is_known(bench: Bench) -> None:
    await slept(bench)
    bench.link.members.add("shop.risk")
    bench.link.topic("orders", 4, end=5)
    for _ in range(6):
        seen = await bench.tick()
    assert (seen.lag, seen.rewound is None) == (14, False)
    assert bench.link.commits["shop.risk"][Partition("orders", 0)].offset == 8
    bench.link.commit_all("shop.risk", "orders")
    await bench.tick()
    assert (await bench.tick()).lag == 0


async def test_workers_that_are_ahead_of_the_ends_are_no_trouble(bench: Bench) -> None:
    bench.poller.watch(replace(TARGET, workers=1))
    for _ in range(20):
        # Between the two requests of a look, messages came and were done.
        bench.link.commits["shop.risk"] = {
            Partition("orders", p): Commit(end + 10)
            for p, (_, end) in enumerate(bench.link.topics["orders"])
        }
        seen = await bench.tick()
        assert (seen.lag, seen.rewound) == (0, None)
        for partition in bench.link.topics["orders"]:
            partition[1] += 10


async def test_all_sleepers_together_cost_one_fetch_in_four_seconds() -> None:
    link = FakeLink()
    link.topic("orders", 1)
    now, seen = 1000.0, dict[str, Observation]()
    poller = ClusterPoller(link, seen.__setitem__, Metrics(), seconds=2, clock=lambda: now)
    for number in range(100):
        poller.watch(Target(f"shop/{number}", f"g{number}", ("orders",)))
    await poller.tick()
    link.requests.clear()
    fetched = []
    for _ in range(170):
        now += 4
        await poller.tick()
        fetched += [r for r in link.requests if r.startswith("committed")]
        link.requests.clear()
    # None for five minutes, then one in four seconds, and always another one.
    assert len(fetched) == len(set(fetched)) == pytest.approx((680 - 300) / 4, abs=2)
