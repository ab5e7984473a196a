"""A rate that rises slowly may wait for its workers; what falls is one step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flowbinding_operator.scaling import Decision
from scaling_world import TICK, Topic, spec_of

ONE = {"perReplica": 1}


def settled(rate: float, partitions: int = 24) -> Topic:
    topic = Topic(spec_of({"maxReplicas": 200}, ONE), partitions)
    topic.watch(400, rate)
    return topic


def steps(before: int | None, seen: list[Decision]) -> list[int | None]:
    """What the number was changed to."""
    numbers = [before, *(decision.replicas for decision in seen)]
    return [later for earlier, later in pairwise(numbers) if later != earlier]


def test_a_slight_shortfall_gets_workers_before_what_waits_is_late() -> None:
    topic = settled(0.45)
    assert topic.history.replicas == 12
    # 13.2 messages a second come, 12 workers do 12 of them.
    seen = topic.watch(60, 0.55)
    assert steps(12, seen) == []
    ages = []
    for _ in range(300):
        seen.append(topic.look(0.55))
        ages.append(max(topic.history.partitions.waiting()) / 0.55)
    # Up once, and then it stays; nothing has waited for longer than targetLagSeconds.
    assert steps(12, seen) == [24]
    assert 15 < max(ages) <= 30
    assert max(topic.history.partitions.waiting()) <= 2


def test_a_large_shortfall_is_not_waited_with() -> None:
    topic = settled(0.45)
    seen = topic.watch(40, 0.9)
    assert steps(12, seen) == [24]


def test_messages_of_a_few_partitions_that_are_overdue_end_the_patience() -> None:
    topic = settled(0.45)
    topic.watch(40, 0.52)
    assert topic.history.replicas == 12
    # Two partitions of one worker get 25 more: the sum of 24 partitions hardly shows it.
    topic.burst(25, range(0, 24, 12))
    assert steps(12, topic.watch(60, 0.52)) == [24]


def test_a_fall_that_is_seen_in_several_steps_is_one() -> None:
    topic = settled(0.45)
    assert len(steps(12, topic.watch(200, 0.05))) == 1


def test_with_headroom_noise_at_the_edge_of_a_level_takes_no_workers_away() -> None:
    # 1.86 a second may be 2 that happen to be fewer.
    topic = Topic(spec_of({"maxReplicas": 200, "targetUtilization": 99}, ONE), 24)
    topic.watch(400, 2.0 / 24)
    assert topic.history.replicas == 3
    assert steps(3, topic.watch(600, 1.86 / 24)) == []


@pytest.mark.parametrize("partitions", [24, 126])
def test_late_partitions_get_workers_that_hold_a_fifth_fewer(partitions: int) -> None:
    each = partitions // 6
    topic = settled(5.4 / partitions, partitions)
    assert topic.history.replicas == 6
    topic.burst(84 // each, range(0, partitions, 6))
    highest = max(decision.replicas or 0 for decision in topic.watch(90, 5.4 / partitions))
    assert highest == 8


@pytest.mark.parametrize("share", [0.97, 1.0, 1.04])
@pytest.mark.parametrize("partitions", [12, 20])
def test_a_constant_rate_at_the_edge_of_a_level_settles(share: float, partitions: int) -> None:
    # As much as half as many workers as partitions do.
    rate = share * (partitions // 2) / partitions
    topic = settled(rate, partitions)
    seen = topic.watch(1600, rate)
    assert len(steps(topic.history.replicas, seen)) <= 2
    assert len({decision.replicas for decision in seen[-int(600 / TICK) :]}) == 1
    assert sum(topic.ends) - sum(topic.done) <= 30 * rate * partitions
