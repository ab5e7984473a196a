"""What observations lead to: how often a status is written, and what a changed source forgets."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowbinding_api.offsets import Figures
from flowbinding_api.reasons import Reason
from flowbinding_operator.lag import Commit, Partition
from operator_harness import KEY, Operator

GROUP = "shop.risk"
SPEC: dict[str, Any] = {"scaling": {"maxReplicas": 24}}


async def trickling() -> Operator:
    """A healthy binding with one worker, which keeps up."""
    operator = Operator()
    operator.submit(**SPEC)
    await operator.reconcile()
    operator.link.produce("orders", 3)
    await operator.poll()
    operator.pods(ready=1)
    await operator.reconcile()
    leave(operator, 0)
    for _ in range(40):
        await operator.poll()
    return operator


def leave(operator: Operator, lag: int) -> None:
    """Commit all but `lag` messages."""
    operator.link.commit_all(GROUP, "orders", Figures(1, 10, seconds_per_message=0.5))
    for index in range(lag):
        partition = Partition("orders", index)
        offset, metadata = operator.link.commits[GROUP][partition]
        operator.link.commits[GROUP][partition] = Commit(offset - 1, metadata)


@pytest.mark.parametrize("seed", range(3))
async def test_a_healthy_trickle_is_not_written_at_the_speed_of_polls(seed: int) -> None:
    operator, dice, writes = await trickling(), random.Random(seed), 0
    operator.link.produce("orders", 24)
    for _ in range(300):
        operator.link.produce("orders", dice.randint(0, 3))
        leave(operator, dice.randint(0, 3))
        writes += (await operator.poll()).count("status")
    assert operator.status["desiredReplicas"] == 1
    assert 10 < writes <= 60


async def test_an_idle_binding_is_not_written_at_all() -> None:
    operator = await trickling()
    for _ in range(200):
        await operator.poll()
    assert operator.status["reason"] == Reason.IDLE
    assert operator.status["arrivalRate"] == 0
    for _ in range(300):
        assert await operator.poll() == []


async def test_a_drained_binding_shows_it_soon() -> None:
    operator = await trickling()
    operator.link.produce("orders", 20)
    writes, waited = [], 0
    while operator.status["lag"] != 20:
        writes += await operator.poll()
    leave(operator, 0)
    while operator.status["lag"] != 0:
        await operator.poll()
        waited += 2
    assert waited <= 12


@pytest.mark.parametrize("restarted", [False, True])
async def test_other_topics_start_anew(restarted: bool) -> None:
    operator = await trickling()
    if restarted:
        operator.restart()
        await operator.reconcile()
        # This process has had nothing to write yet.
        await operator.poll()
    operator.link.topic("old", 2, end=2_500_000)
    operator.link.commits[GROUP] |= {Partition("old", n): Commit(2_500_000) for n in range(2)}
    operator.submit(source={"topics": ["orders", "old"]}, **SPEC)
    await operator.reconcile()
    # What is known is of the old topics, and the old True must not carry the new generation.
    assert operator.condition("TopicAvailable") == ("Unknown", "Reconciling")
    assert operator.condition("Ready") == ("Unknown", "Reconciling")
    assert operator.deployment["spec"]["replicas"] == 1
    assert "lag" not in operator.status
    await operator.poll()
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")
    assert operator.status["partitions"] == 26
    # Five million old messages did not arrive just now.
    assert operator.status["arrivalRate"] == 0
    assert operator.status["desiredReplicas"] == 1


@pytest.mark.parametrize(
    ("changed", "anew"),
    [
        ({"source": {"topics": ["orders"]}}, False),
        ({"source": {"topic": "orders", "consumerGroup": "other"}}, True),
        ({"kafka": {"bootstrapServers": "other:9092"}}, True),
        ({"scaling": {"maxReplicas": 3}}, False),
    ],
)
async def test_what_makes_old_observations_worthless(changed: dict[str, Any], anew: bool) -> None:
    operator = await trickling()
    operator.submit(**{**SPEC, **changed})
    await operator.reconcile()
    track = operator.autoscaler._tracks[KEY]
    assert (track.observation is None) is anew
    assert (len(track.history.samples) == 0) is anew
    assert track.history.replicas == 1
