"""A hundred bindings: idle they cost nothing, and a burst wakes those that it is for."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import pytest

from scale.figures import Scrape
from scale.fleet import OWN, WANTED, Fleet, until, writes
from scale.measure import burst
from testbed import Testbed

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

POLLS = 3
EACH_POLL = 1
"""Requests of a look at one broker."""
NOW_AND_THEN = 2
"""And of one that also looks at leaders and at what retention has deleted."""


@pytest.fixture
async def fleet(operator: Testbed) -> AsyncIterator[Fleet]:
    """A hundred bindings on ten topics."""
    await asyncio.to_thread(operator.paper_node().start)
    async with Fleet(operator, 100, 10, f"fleet-{uuid.uuid4().hex[:8]}") as made:
        try:
            await made.create()
            yield made
        finally:
            await made.remove()
            await asyncio.to_thread(operator.paper_node().stop)


async def cost(fleet: Fleet) -> tuple[float, float, float]:
    """Writes by either count, and requests to Kafka beyond the looks' own, of some polls."""
    before = (await fleet.operator(), await fleet.server())
    end = before[0].sum(f"{OWN}lag_polls_total") + POLLS

    async def polled() -> bool:
        return (await fleet.operator()).sum(f"{OWN}lag_polls_total") >= end

    await until(polled, f"{POLLS} polls", 60)
    after = (await fleet.operator(), await fleet.server())
    (own, seen), (own_before, seen_before) = writes(*after), writes(*before)
    asked = requests(after[0]) - requests(before[0])
    polls = after[0].sum(f"{OWN}lag_polls_total") - before[0].sum(f"{OWN}lag_polls_total")
    # One look may have begun before.
    spare = asked - EACH_POLL * (polls + 1) - NOW_AND_THEN
    return own - own_before, seen - seen_before, max(0.0, spare)


def requests(scrape: Scrape) -> float:
    return scrape.sum(f"{OWN}kafka_requests_total")


async def test_a_fleet_costs_nothing_while_idle_and_a_burst_wakes_whom_it_is_for(
    operator: Testbed, fleet: Fleet
) -> None:
    await until(fleet.all_ready, "a hundred bindings are Ready", 90)
    assert await fleet.deployments() == 100
    # What earlier tests have left may still be going away.
    async with asyncio.timeout(90):
        while await cost(fleet) != (0, 0, 0):
            pass
    topics = fleet.topics[:1]
    woken = set(fleet.of_topics(topics))
    assert len(woken) == 10
    await burst(fleet, topics)
    wanted = await fleet.wanted(fleet.bindings)
    assert {name for name, number in wanted.items() if number} == woken

    async def ready() -> bool:
        statuses = await fleet.statuses()
        return all(statuses[name].get("readyReplicas") == WANTED for name in woken)

    await until(ready, "their workers are ready", 60)
    items = json.loads(
        await asyncio.to_thread(
            operator.kubectl, "-n", fleet.name, "get", "events.events.k8s.io", "-o", "json"
        )
    )["items"]
    scaled = [item["regarding"]["name"] for item in items if item["reason"] == "Scaled"]
    # Once each, or twice where a look at Kafka fell into the burst.
    assert set(scaled) == woken
    assert len(scaled) <= 2 * len(woken)
