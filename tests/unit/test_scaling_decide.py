"""The scaling policy: what it decides in named situations, and what holds in all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.reasons import Reason
from flowbinding_operator.scaling import Highest, History, Sample, arrival_rate, decide
from scaling_world import TICK, World, spec_of


def test_a_burst_from_zero_gets_its_final_number_in_one_step() -> None:
    world = World(spec_of({"maxReplicas": 24}))
    assert world.run(60, lag=0).replicas == 0
    first = world.tick(lag=4800, arrived=4800)
    assert first.replicas == 24
    assert {world.tick(lag=lag).replicas for lag in (4700, 4000, 2000)} == {24}


def test_messages_that_were_there_before_the_binding_count_as_backlog() -> None:
    world = World(spec_of({"maxReplicas": 24}))
    assert world.tick(lag=4800).replicas == 24


@pytest.mark.parametrize(
    ("lag", "bounds", "replicas", "limited"),
    [
        (1, {}, 1, None),
        (290, {}, 1, None),
        (291, {}, 2, None),
        (10_000, {}, 10, Reason.MAX_REPLICAS),
        (100_000, {"maxReplicas": 100}, 24, Reason.PARTITION_LIMIT),
        (1, {"minReplicas": 3}, 3, None),
        (1000, {"lagThreshold": 100}, 10, None),
        (1000, {"targetLagSeconds": 10, "maxReplicas": 12}, 12, None),
        (100, {"expectedSecondsPerMessage": 20, "maxReplicas": 24}, 12, None),
    ],
)
def test_a_backlog_gets_as_many_as_it_takes(
    lag: int, bounds: dict[str, Any], replicas: int, limited: Reason | None
) -> None:
    decision = World(spec_of(bounds)).tick(lag)
    assert (decision.replicas, decision.limited) == (replicas, limited)


def test_counts_that_leave_the_busiest_worker_as_busy_are_skipped() -> None:
    spec = spec_of({"maxReplicas": 24})
    counts = {World(spec).tick(lag=lag).replicas for lag in range(1, 7300, 50)}
    # 13 to 23 workers for 24 partitions have one worker with two of them, just as 12 have.
    assert counts == {1, 2, 3, 4, 5, 6, 8, 12, 24}


def test_measured_service_time_replaces_the_expected_one_and_outlives_the_workers() -> None:
    world = World(spec_of({"maxReplicas": 24}))
    assert world.tick(lag=600, seconds_per_message=0.1).replicas == 1
    assert world.tick(lag=600).seconds_per_message == 0.1


def test_to_zero_only_after_the_time_of_quiet() -> None:
    world = World(spec_of({"idleSeconds": 60}))
    world.tick(lag=10, arrived=10)
    assert world.run(58, lag=0).replicas == 1
    quiet = world.run(6, lag=0)
    assert (quiet.replicas, quiet.reason) == (0, Reason.IDLE)


def test_a_message_that_is_done_at_once_still_puts_sleep_off() -> None:
    world = World(spec_of({"idleSeconds": 60}))
    world.tick(lag=10, arrived=10)
    world.run(40, lag=0)
    world.tick(lag=0, arrived=1)
    assert world.run(58, lag=0).replicas == 1
    assert world.run(6, lag=0).replicas == 0


def test_scale_down_waits_for_its_window_and_takes_the_highest_need() -> None:
    world = World(spec_of({"maxReplicas": 24}))
    assert world.tick(lag=7000).replicas == 24
    world.tick(lag=1500)
    held = world.run(110, lag=10)
    assert (held.replicas, held.reason) == (24, Reason.STABILIZING)
    assert world.run(30, lag=10).replicas == 1


def test_scale_up_can_be_made_to_wait() -> None:
    behavior = {"scaleUp": {"stabilizationWindowSeconds": 10}}
    world = World(spec_of({"behavior": behavior}), replicas=1)
    assert world.tick(lag=3000).replicas == 1
    assert world.run(6, lag=3000).replicas == 1
    assert world.run(6, lag=3000).replicas == 10


def test_unknown_lag_changes_nothing_however_long() -> None:
    world = World(spec_of({"idleSeconds": 10, "maxReplicas": 24}))
    world.tick(lag=7000)
    held = world.run(900, lag=None)
    assert (held.replicas, held.reason) == (24, Reason.LAG_UNKNOWN)
    # The time of quiet and the window start anew: nobody knows what happened meanwhile.
    assert world.run(8, lag=0).replicas == 24


def test_after_a_restart_the_current_number_stays_until_the_window_has_passed() -> None:
    world = World(spec_of(), replicas=7)
    assert world.run(110, lag=5).replicas == 7
    assert world.run(20, lag=5).replicas == 1


def test_nothing_is_known_of_a_new_binding() -> None:
    assert decide(History(), spec_of()).replicas is None


def test_bounds_hold_without_patience() -> None:
    world = World(spec_of({"maxReplicas": 4}), replicas=9)
    assert world.tick(lag=5000).replicas == 4
    few = World(spec_of(), partitions=3, replicas=9)
    assert few.tick(lag=5).replicas == 3


def test_partition_ordering_gains_nothing_beyond_one_slot_for_each_partition() -> None:
    slots = {"perReplica": 8, "ordering": "Partition"}
    decision = World(spec_of({"maxReplicas": 24}, slots)).tick(lag=100_000)
    # 24 partitions, one message each at a time: three workers with eight slots do all of it.
    assert decision.replicas == 3


@pytest.mark.parametrize(
    ("spec", "replicas", "reason"),
    [
        ({"paused": True}, 0, Reason.PAUSED),
        ({"flow": {"url": "http://langflow:7860"}}, 0, Reason.SKIPPED),
        ({"scaling": {"mode": "Static", "replicas": 3}}, 3, Reason.STATIC),
        ({"scaling": {"mode": "External", "replicas": 2}}, 2, Reason.EXTERNAL),
    ],
)
def test_modes_that_do_not_look_at_the_lag(
    spec: dict[str, Any], replicas: int, reason: Reason
) -> None:
    decision = World(spec_of(**spec), replicas=5).tick(lag=1000)
    assert (decision.replicas, decision.reason) == (replicas, reason)


def test_a_few_messages_are_no_trend() -> None:
    samples = [Sample(float(t), 0, 0) for t in range(0, 180, 2)]
    assert arrival_rate([*samples, Sample(180.0, 0, 9)]) == pytest.approx(9 / 180)
    assert arrival_rate([*samples, Sample(180.0, 0, 900)]) > 20


def test_a_topic_made_anew_has_no_negative_rate() -> None:
    assert arrival_rate([Sample(0.0, 0, 5000), Sample(10.0, 0, 3)]) == 0


def test_what_arrives_in_a_topic_made_anew_counts_at_once() -> None:
    ends = [5000, 5060, 0, 60, 120]
    samples = [Sample(10.0 * index, 0, end) for index, end in enumerate(ends)]
    assert arrival_rate(samples) == pytest.approx(180 / 40)


@pytest.mark.parametrize(("seconds", "replicas"), [(10, 1), (30, 3), (60, 6)])
def test_work_in_flight_is_no_backlog(seconds: int, replicas: int) -> None:
    world = World(spec_of({"maxReplicas": 24, "expectedSecondsPerMessage": seconds}))
    # One message a second: `seconds` of them are always in flight, in `seconds` / 10 workers.
    assert world.run(400, lag=seconds, arrived=2).replicas == replicas


def test_a_backlog_is_done_no_sooner_than_a_run_takes() -> None:
    world = World(spec_of({"maxReplicas": 24, "expectedSecondsPerMessage": 300}))
    assert world.tick(lag=20).replicas == 2


@settings(max_examples=200, deadline=None)
@given(
    arrived=st.integers(1, 60),
    seconds=st.floats(0.05, 300),
    partitions=st.integers(1, 64),
    target=st.integers(1, 300),
)
def test_a_lag_of_what_is_in_flight_wants_what_arrivals_alone_want(
    arrived: int, seconds: float, partitions: int, target: int
) -> None:
    def settled(lag: int) -> tuple[int | None, int | None]:
        scaling = {
            "maxReplicas": 64,
            "targetLagSeconds": target,
            "expectedSecondsPerMessage": seconds,
        }
        decision = World(spec_of(scaling), partitions, replicas=1).run(200, lag, arrived)
        return decision.wanted, decision.floor

    in_flight = int(arrived / TICK * seconds)
    if in_flight > 0:
        # 1, not 0: without any lag, a binding may be asleep.
        assert settled(in_flight) == settled(1)


@pytest.mark.parametrize("hole", [False, True])
def test_too_short_a_look_at_arrivals_takes_no_worker_away(hole: bool) -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    spec = spec_of({"maxReplicas": 24, "behavior": behavior})
    world = World(spec, replicas=12)
    if hole:
        world.run(400, lag=100, arrived=200)
        world.run(200, lag=None)
    # 100 a second need 12 workers, and for half a minute nobody can know whether they still come.
    assert {world.tick(lag=100, arrived=200).replicas for _ in range(60)} == {12}
    fewer = World(spec, replicas=12)
    assert fewer.run(30, lag=5).replicas == 12
    assert fewer.run(4, lag=5).replicas == 1


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.tuples(st.integers(1, 40), st.integers(-5, 5)), min_size=1, max_size=60),
    window=st.integers(0, 300),
)
def test_the_highest_of_a_window_is_the_highest_of_all_that_was_in_it(
    numbers: list[tuple[int, int]], window: int
) -> None:
    highest, now = Highest(), 0.0
    seen: list[tuple[float, int]] = []
    for step, number in numbers:
        now += step
        expected: int | None = number
        if window:
            known = bool(seen) and seen[0][0] <= now - window
            within = [n for time, n in seen if time >= now - window]
            expected = max([number, *within]) if known else None
        assert highest.of(number, now, window) == expected
        highest.add(now, number, window)
        seen.append((now, number))
        assert len(highest.falling) <= min(11, len(seen))


def test_a_window_that_grows_is_waited_for() -> None:
    highest = Highest()
    for time in range(0, 200, 2):
        highest.add(float(time), 1, 20)
    assert highest.of(1, 198.0, 20) == 1
    assert highest.of(1, 198.0, 60) is None


def test_an_hour_of_needs_takes_little_space() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 3600}}
    world = World(spec_of({"maxReplicas": 24, "behavior": behavior}))
    for lag in range(9000, 0, -5):
        world.tick(lag)
    # As many as there are counts worth having, see above.
    assert len(world.history.downs.falling) <= 9
    assert not world.history.ups.falling


ticks = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 20_000)), st.integers(0, 500)), max_size=40
)
scalings = st.builds(
    lambda low, more, target, threshold: {
        "minReplicas": low,
        "maxReplicas": low + more,
        "targetLagSeconds": target,
        **({"lagThreshold": threshold} if threshold else {}),
    },
    st.integers(0, 5),
    st.integers(1, 60),
    st.integers(1, 300),
    st.one_of(st.none(), st.integers(1, 1000)),
)


@settings(max_examples=200, deadline=None)
@given(ticks=ticks, scaling=scalings, partitions=st.integers(1, 64), replicas=st.integers(0, 100))
def test_bounds_and_unknown_data(
    ticks: list[tuple[int | None, int]], scaling: dict[str, Any], partitions: int, replicas: int
) -> None:
    spec = spec_of(scaling)
    world = World(spec, partitions, replicas)
    for lag, arrived in ticks:
        before = world.history.replicas
        decision = world.tick(lag, arrived)
        assert decision.replicas is not None
        if lag is None:
            assert decision.replicas == before
            continue
        assert decision.replicas <= min(partitions, spec.scaling.max_replicas)
        assert decision.replicas >= min(
            spec.scaling.min_replicas, partitions, spec.scaling.max_replicas
        )
        if lag > 0:
            assert decision.replicas > 0


@settings(max_examples=200, deadline=None)
@given(
    scaling=scalings,
    partitions=st.integers(1, 64),
    history=st.lists(st.integers(0, 100), min_size=1, max_size=20),
    lag=st.integers(1, 20_000),
    more_lag=st.integers(0, 20_000),
    more_arrivals=st.integers(0, 2000),
)
def test_more_lag_or_more_arrivals_never_want_fewer(
    scaling: dict[str, Any],
    partitions: int,
    history: list[int],
    lag: int,
    more_lag: int,
    more_arrivals: int,
) -> None:
    def wanted(lag: int, arrivals: int) -> int:
        world = World(spec_of(scaling), partitions)
        for arrived in history:
            world.tick(lag, arrived)
        decision = world.tick(lag, arrivals)
        assert decision.wanted is not None
        return decision.wanted

    base = wanted(lag, 10)
    assert wanted(lag + more_lag, 10) >= base
    if spec_of(scaling).scaling.lag_threshold is None and more_lag == 0:
        # With the lag fixed, what arrives reduces the part of it that is backlog, so more arrivals
        # at the same lag mean that more has been done: compare at a lag that grew with them.
        assert wanted(lag + more_arrivals, 10 + more_arrivals) >= base


@settings(max_examples=60, deadline=None)
@given(arrived=st.integers(1, 60), partitions=st.integers(1, 64), in_flight=st.floats(0.1, 5))
def test_constant_load_settles(arrived: int, partitions: int, in_flight: float) -> None:
    world = World(spec_of({"maxReplicas": 64}), partitions, replicas=1)
    lag = max(1, round(arrived / TICK * in_flight))
    world.run(400, lag, arrived)
    counts = {world.tick(lag, arrived).replicas for _ in range(150)}
    assert len(counts) == 1
