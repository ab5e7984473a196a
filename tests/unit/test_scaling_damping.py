"""What keeps a need from becoming a change at once: policies, activation, fallback, dry run."""

from __future__ import annotations

from typing import Any

import pytest

from flowbinding_api.reasons import Reason
from scaling_world import TICK, World, spec_of

ALWAYS = {"start": "0 0 * * *", "end": "59 23 * * *"}
NOON = 1_800_014_400.0


def steps(world: World, seconds: float, lag: int) -> list[int | None]:
    """The numbers it went through."""
    seen: list[int | None] = [world.history.replicas]
    for _ in range(int(seconds / TICK)):
        replicas = world.tick(lag).replicas
        if replicas != seen[-1]:
            seen.append(replicas)
    return seen


def limited(direction: str, rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    window = {"stabilizationWindowSeconds": 0}
    return {"maxReplicas": 24, "behavior": {direction: {**window, **rules}}, **more}


def policy(kind: str, value: int, period: int) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": period}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"policies": [policy("Pods", 4, 20)]}, [0, 4, 8, 12, 16, 20, 24]),
        ({"policies": [policy("Percent", 100, 20)]}, [0, 1, 2, 4, 8, 16, 24]),
        ({"policies": [policy("Percent", 100, 20), policy("Pods", 4, 20)]}, [0, 4, 8, 16, 24]),
        (
            {
                "policies": [policy("Percent", 100, 20), policy("Pods", 4, 20)],
                "selectPolicy": "Min",
            },
            [0, 1, 2, 4, 8, 12, 16, 20, 24],
        ),
        ({"selectPolicy": "Disabled"}, [0]),
    ],
)
def test_policies_limit_how_fast_it_goes_up(
    rules: dict[str, Any], expected: list[int | None]
) -> None:
    world = World(spec_of(limited("scaleUp", rules)))
    assert steps(world, 200, lag=20_000) == expected


def test_a_limited_step_says_so() -> None:
    world = World(spec_of(limited("scaleUp", {"policies": [policy("Pods", 4, 60)]})))
    decision = world.tick(20_000)
    assert (decision.replicas, decision.wanted, decision.reason) == (4, 24, Reason.SCALING_POLICY)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"policies": [policy("Pods", 8, 30)]}, [24, 16, 8, 1]),
        ({"policies": [policy("Percent", 50, 30)]}, [24, 12, 6, 3, 1]),
        (
            {"policies": [policy("Percent", 50, 30), policy("Pods", 4, 30)], "selectPolicy": "Min"},
            [24, 20, 16, 12, 8, 4, 2, 1],
        ),
        ({"selectPolicy": "Disabled"}, [24]),
    ],
)
def test_policies_limit_how_fast_it_goes_down(
    rules: dict[str, Any], expected: list[int | None]
) -> None:
    world = World(spec_of(limited("scaleDown", rules)), replicas=24)
    assert steps(world, 400, lag=5) == expected


def test_a_need_that_falls_all_the_time_is_followed() -> None:
    window = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    scaling = {"maxReplicas": 1000, "lagThreshold": 10, "behavior": window}
    world = World(spec_of(scaling), partitions=1000, replicas=1000)
    world.run(200, lag=10_000)
    for lag in range(10_000, 2_000, -10):
        # A step every two seconds: there is always a next one.
        replicas = world.tick(lag).replicas or 0
        assert replicas <= lag / 10 + (2 * 60 + 8) / TICK


def test_falling_asleep_is_not_limited_but_can_be_disabled() -> None:
    slow = {"policies": [policy("Pods", 1, 600)]}
    asleep = World(spec_of(limited("scaleDown", slow, idleSeconds=60)), replicas=24)
    assert asleep.run(64, lag=0).replicas == 0
    never = {"selectPolicy": "Disabled"}
    awake = World(spec_of(limited("scaleDown", never, idleSeconds=60)), replicas=24)
    assert awake.run(640, lag=0).replicas == 24


def test_a_few_messages_wake_nobody_until_they_are_old() -> None:
    activation = {"lag": 5, "maxAgeSeconds": 20}
    world = World(spec_of({"activation": activation}))
    asleep = world.run(20, lag=5)
    assert (asleep.replicas, asleep.reason) == (0, Reason.NOT_ACTIVATED)
    assert world.run(2, lag=5).replicas == 1


def test_more_messages_wake_at_once() -> None:
    world = World(spec_of({"activation": {"lag": 5, "maxAgeSeconds": 3600}}))
    assert world.run(100, lag=5).replicas == 0
    assert world.tick(6).replicas == 1


def test_a_lag_that_goes_away_starts_its_age_anew() -> None:
    world = World(spec_of({"activation": {"lag": 5, "maxAgeSeconds": 20}}))
    world.run(18, lag=5)
    world.tick(0)
    assert world.run(18, lag=5).replicas == 0


@pytest.mark.parametrize(
    ("behavior", "replicas", "expected"),
    [
        ("Static", 6, 3),
        ("CurrentReplicas", 6, 6),
        ("CurrentReplicasIfHigher", 6, 6),
        ("CurrentReplicasIfHigher", 1, 3),
        ("CurrentReplicasIfLower", 6, 3),
        ("CurrentReplicasIfLower", 1, 1),
    ],
)
def test_fallback(behavior: str, replicas: int, expected: int) -> None:
    fallback = {"failureThreshold": 5, "replicas": 3, "behavior": behavior}
    world = World(spec_of({"fallback": fallback}), replicas=replicas)
    before = world.run(4 * TICK, lag=None)
    assert (before.replicas, before.reason) == (replicas, Reason.LAG_UNKNOWN)
    after = world.tick(None)
    kept = behavior == "CurrentReplicas"
    assert after.replicas == expected
    assert after.reason is (Reason.LAG_UNKNOWN if kept else Reason.FALLBACK)


def test_one_answer_ends_the_fallback() -> None:
    fallback = {"failureThreshold": 2, "replicas": 3, "behavior": "Static"}
    world = World(spec_of({"fallback": fallback}), replicas=6)
    assert world.run(10, lag=None).replicas == 3
    assert world.tick(3000).replicas == 10
    assert world.tick(None).replicas == 10


def test_the_fallback_keeps_to_the_bounds() -> None:
    fallback = {"failureThreshold": 1, "replicas": 50, "behavior": "Static"}
    assert World(spec_of({"fallback": fallback}), replicas=6).tick(None).replicas == 10


def test_a_dry_run_only_recommends() -> None:
    world = World(spec_of({"dryRun": True, "maxReplicas": 24}), replicas=5)
    decision = world.tick(7000)
    assert (decision.replicas, decision.recommended) == (5, 24)
    assert decision.reason is Reason.DRY_RUN
    # What is recommended is damped as if it had been done.
    assert world.run(100, lag=5).recommended == 24
    assert world.run(40, lag=5).recommended == 1
    assert world.history.replicas == 5


@pytest.mark.parametrize("mode", ["Static", "External"])
def test_modes_that_do_not_look_at_the_lag_still_recommend(mode: str) -> None:
    world = World(spec_of({"mode": mode, "replicas": 3, "maxReplicas": 24}), replicas=3)
    decision = world.tick(7000)
    assert (decision.replicas, decision.recommended) == (3, 24)


def test_a_schedule_sets_the_bounds_while_it_is_on() -> None:
    office = {**ALWAYS, "minReplicas": 4, "maxReplicas": 6}
    world = World(spec_of({"schedules": [office]}))
    quiet = world.run(400, lag=0, unix=NOON)
    assert (quiet.replicas, quiet.reason) == (4, Reason.SCHEDULE)
    busy = world.tick(7000, unix=NOON)
    assert (busy.replicas, busy.limited) == (6, Reason.SCHEDULE)
    # 23:59 UTC: it is over.
    after = world.run(10, 7000, unix=1_799_971_140.0)
    assert (after.replicas, after.limited) == (10, Reason.MAX_REPLICAS)


@pytest.mark.parametrize(
    ("alignment", "counts"),
    [
        ("Balanced", {1, 2, 3, 4, 5, 6, 8, 12, 24}),
        ("Exact", {1, 2, 3, 4, 6, 8, 12, 24}),
        ("None", set(range(1, 25))),
    ],
)
def test_alignment_says_which_counts_are_worth_having(alignment: str, counts: set[int]) -> None:
    spec = spec_of({"maxReplicas": 24, "partitionAlignment": alignment})
    assert {World(spec).tick(lag=lag).replicas for lag in range(1, 7300, 50)} == counts


@pytest.mark.parametrize(("utilization", "replicas"), [(100, 8), (75, 12), (50, 24)])
def test_utilization_is_the_headroom_of_arrivals(utilization: int, replicas: int) -> None:
    scaling = {"maxReplicas": 24, "targetUtilization": utilization}
    spec = spec_of(scaling, {"perReplica": 1})
    # 7.5 messages a second, one a second for each worker.
    world = World(spec, replicas=1)
    assert world.run(400, lag=1, arrived=15).wanted == replicas


@pytest.mark.parametrize(("slots", "replicas"), [(40, 4), (45, 5), (1000, 24)])
def test_what_all_workers_together_may_do_limits_them(slots: int, replicas: int) -> None:
    world = World(spec_of({"maxReplicas": 24}, {"maxInFlight": slots}))
    decision = world.tick(7000)
    assert decision.replicas == replicas
    assert decision.limited is (Reason.IN_FLIGHT_LIMIT if slots < 240 else Reason.PARTITION_LIMIT)
    few = World(spec_of({"maxReplicas": 24}, {"maxInFlight": 3, "perReplica": 1}))
    assert few.tick(7000).replicas == 3


def test_a_rate_limit_limits_the_workers() -> None:
    world = World(spec_of({"maxReplicas": 24}, rateLimit={"requestsPerMinute": 3000}))
    decision = world.tick(7000)
    # 50 a second, and one worker does 10; with five, one of them would have five partitions.
    assert (decision.replicas, decision.limited) == (6, Reason.RATE_LIMIT)


def test_what_still_grows_is_followed_in_few_steps() -> None:
    world = World(spec_of({"maxReplicas": 24}), replicas=1)
    seen = [world.tick(lag).replicas for lag in range(300, 6000, 200)]
    # Twice as many are worth it at once, a few more after eight seconds.
    assert len(set(seen)) <= 7
    assert world.run(10, 7000).replicas == 24
