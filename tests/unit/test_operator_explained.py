"""`status.scaling`: what a number was made from, what holds it, and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowbinding_api.reasons import Reason
from flowbinding_api.status import FlowBindingStatus, Hold, ScalingStatus
from flowbinding_operator.explained import explained, steady, wait
from flowbinding_operator.scaling import Decision
from flowbinding_operator.status import patch
from operator_harness import Operator
from scaling_world import TICK, World, spec_of

UNIX = 1_800_014_400.0


def window(direction: str, **rules: Any) -> dict[str, Any]:
    return {"maxReplicas": 24, "behavior": {direction: rules}}


def pods(value: int, period: int) -> dict[str, Any]:
    return {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": value, "periodSeconds": period}],
    }


def grown(world: World) -> Decision:
    return world.run(40, lag=4000)


CASES: dict[Hold, tuple[dict[str, Any], int, int]] = {
    Hold.STABILIZATION_WINDOW: (window("scaleUp", stabilizationWindowSeconds=30), 0, 4000),
    Hold.OBSERVING: (window("scaleDown", stabilizationWindowSeconds=0), 8, 1),
    Hold.SCALING_POLICY: (window("scaleUp", **pods(4, 60)), 0, 20_000),
    Hold.IDLE_SECONDS: ({"idleSeconds": 60}, 1, 0),
    Hold.ACTIVATION_AGE: ({"activation": {"lag": 10, "maxAgeSeconds": 20}}, 0, 3),
}
"""Of each: spec.scaling, workers at the beginning, lag."""


@pytest.mark.parametrize("hold", CASES)
def test_what_holds_a_number_ends_when_it_says(hold: Hold) -> None:
    scaling, replicas, lag = CASES[hold]
    world = World(spec_of(scaling), replicas=replicas)
    # The first step of a policy is free; the second one waits.
    decision = world.run(6, lag) if hold is Hold.SCALING_POLICY else world.tick(lag)
    found = wait(world.history, world.spec, decision)
    assert found is not None
    assert found[0] is hold
    before, left = decision.replicas, found[1]
    assert left is not None
    assert left > TICK
    waited = 0.0
    while decision.replicas == before and waited <= left + 2 * TICK:
        decision = world.tick(lag)
        waited += TICK
    assert waited == pytest.approx(left, abs=2 * TICK)


def test_a_scale_down_window_ends_when_it_says() -> None:
    world = World(spec_of(window("scaleDown", stabilizationWindowSeconds=60)))
    before = grown(world).replicas
    decision = world.tick(5)
    found = wait(world.history, world.spec, decision)
    assert found is not None
    assert found[0] is Hold.STABILIZATION_WINDOW
    waited = 0.0
    while decision.replicas == before:
        decision = world.tick(5)
        waited += TICK
    assert found[1] == pytest.approx(waited, abs=2 * TICK)


def test_a_scale_down_that_is_forbidden_is_told_as_that_and_not_as_a_wait() -> None:
    rules = {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}
    world = World(spec_of(window("scaleDown", **rules)))
    grown(world)
    decision = world.run(60, lag=5)
    assert wait(world.history, world.spec, decision) == (Hold.SCALING_POLICY, None)


def test_a_scale_down_that_waits_for_its_next_step_is_told_as_a_window() -> None:
    rules = {**pods(4, 60), "stabilizationWindowSeconds": 60}
    world = World(spec_of({**window("scaleDown", **rules), "lagThreshold": 10}), replicas=24)
    world.run(100, lag=240)
    for lag in range(240, 100, -4):
        decision = world.tick(lag)
    assert decision.replicas == 24
    assert wait(world.history, world.spec, decision) == (Hold.STABILIZATION_WINDOW, None)


def test_nothing_holds_what_only_the_load_changes() -> None:
    world = World(spec_of({"minReplicas": 1}))
    decision = world.run(300, lag=0)
    assert wait(world.history, world.spec, decision) is None


def test_what_was_decided_from_nothing_has_no_explanation() -> None:
    world = World(spec_of())
    decision = world.tick(None)
    assert decision.reason is Reason.LAG_UNKNOWN
    assert explained(world.history, world.spec, decision, None) is None


def test_bounds_are_told_apart_from_needs() -> None:
    world = World(spec_of({"maxReplicas": 3}, {"perReplica": 1}))
    made = explained(world.history, world.spec, world.tick(6000), 1.0)
    assert made is not None
    assert made.needed_replicas is not None
    assert made.needed_replicas > 3
    assert (made.wanted_replicas, made.max_replicas) == (3, 3)
    assert (made.asked, made.limited_by) == (Reason.BACKLOG, Reason.MAX_REPLICAS)


def at(seconds: float) -> str:
    return (datetime.fromtimestamp(UNIX, UTC) + timedelta(seconds=seconds)).isoformat()


def test_an_explanation_that_says_the_same_stays_the_same() -> None:
    old = ScalingStatus(time=at(0), wanted_replicas=1, hold=Hold.IDLE_SECONDS, hold_until=at(100))
    jittered = ScalingStatus(wanted_replicas=1, hold=Hold.IDLE_SECONDS, hold_until=at(101))
    assert steady(jittered, old, at(50)) == old
    moved = jittered.model_copy(update={"hold_until": at(140)})
    assert steady(moved, old, at(50)) == moved.model_copy(update={"time": at(50)})
    assert steady(None, old, at(50)) is None


def test_what_no_longer_holds_is_removed_from_the_status() -> None:
    # A merge patch leaves what it does not name, in objects below as well.
    old = {"scaling": {"limitedBy": "MaxReplicas", "wantedReplicas": 4, "asked": "Backlog"}}
    new = FlowBindingStatus(scaling=ScalingStatus(asked="Backlog", wanted_replicas=0))
    assert patch(old, new)["scaling"] == {"limitedBy": None, "wantedReplicas": 0}


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    made = Operator()
    yield made
    await made.lag.close()


async def test_the_status_explains_itself_and_an_idle_binding_costs_no_writes(
    operator: Operator,
) -> None:
    operator.submit(scaling={"idleSeconds": 3600, "maxReplicas": 4}, concurrency={"perReplica": 1})
    for _ in range(2):
        await operator.poll()
        for poller in operator.lag.pollers.values():
            # Both clocks of this world move together.
            poller._wall = lambda: UNIX + operator.now
    assert operator.status["scaling"]["asked"] == "Idle"
    operator.link.produce("orders", 3000)
    await operator.poll()
    made = operator.status["scaling"]
    assert (made["wantedReplicas"], made["maxReplicas"]) == (4, 4)
    assert (made["limitedBy"], made["activePartitions"]) == ("MaxReplicas", 24)
    operator.link.commit_all("shop.risk", "orders")
    for _ in range(200):
        await operator.poll()
    assert operator.status["scaling"]["hold"] == "IdleSeconds"
    # It is awake and nothing happens.
    for _ in range(200):
        assert await operator.poll() == []
    assert await operator.reconcile() is not None
    assert operator.kube.writes == []
