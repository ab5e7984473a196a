"""All limits of a flow together: slots, shares of the whole, rates, the circuit."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.spec import Concurrency, RateLimit
from flowbinding_worker.control.circuit import State
from flowbinding_worker.control.flow_control import Bucket, Call, FlowControl
from flowbinding_worker.ports import Failure, ProcessingError, Stage


def control(per_replica: int = 10, **limits: int) -> FlowControl:
    concurrency: dict[str, Any] = {"perReplica": per_replica}
    if "in_flight" in limits:
        concurrency["maxInFlight"] = limits["in_flight"]
    rate = {"requestsPerMinute": limits["a_minute"]} if "a_minute" in limits else {}
    return FlowControl(
        Concurrency.model_validate(concurrency), RateLimit.model_validate(rate), now=0.0
    )


def error(failure: Failure, **more: Any) -> ProcessingError:
    return ProcessingError("no", failure=failure, stage=Stage.CALL, **{"reason": "Test", **more})


def begin(made: FlowControl, count: int, now: float = 0.0) -> list[Call]:
    calls = []
    for n in range(count):
        assert made.allows(now)
        calls.append(made.begin(n + 1, now))
    return calls


@pytest.mark.parametrize(
    ("whole", "assigned", "partitions", "slots"),
    [(20, 3, 6, 10), (20, 1, 6, 3), (20, 6, 6, 10), (5, 1, 12, 1), (20, 0, 6, 1), (7, 5, 4, 7)],
)
def test_each_worker_takes_its_share(
    whole: int, assigned: int, partitions: int, slots: int
) -> None:
    made = control(in_flight=whole)
    made.share(assigned, partitions, 0.0)
    assert made.slots == slots


@given(
    whole=st.integers(1, 500),
    partitions=st.integers(1, 100),
    workers=st.integers(1, 100),
    per_replica=st.integers(1, 100),
)
def test_shares_never_exceed_the_whole_but_for_one_each(
    whole: int, partitions: int, workers: int, per_replica: int
) -> None:
    workers = min(workers, partitions)
    total = 0
    for n in range(workers):
        made = control(per_replica, in_flight=whole)
        made.share(partitions // workers + (n < partitions % workers), partitions, 0.0)
        assert 1 <= made.slots <= per_replica
        total += made.slots
    assert total <= max(whole, workers)


def test_without_a_whole_there_is_no_share() -> None:
    made = control(10)
    made.share(1, 100, 0.0)
    assert made.slots == 10


@given(
    a_minute=st.integers(1, 20_000),
    steps=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=200),
)
def test_a_rate_is_kept_in_every_stretch_of_time(a_minute: int, steps: list[float]) -> None:
    made = control(a_minute=a_minute)
    made.share(4, 4, 0.0)
    begun: list[float] = []
    now = 0.0
    for step in steps:
        now += step
        for _ in range(50):
            if not made.allows(now):
                due = made.next_time(now)
                assert due is not None
                assert made.allows(due + 1e-6), "the time that is promised holds"
                break
            made.begin(1, now).succeeded(now)
            begun.append(now)
    burst = max(1.0, a_minute / 60)
    for i, start in enumerate(begun):
        for j in range(i, len(begun)):
            assert j - i + 1 <= burst + (begun[j] - start) * a_minute / 60 + 1e-3


def test_a_rate_is_shared_and_used_up() -> None:
    workers = []
    for mine in (1, 2, 3):
        made = control(a_minute=600)
        made.share(mine, 6, 0.0)
        workers.append(made)
    begun, now = 0, 0.0
    while now < 60:
        now += 0.01
        for made in workers:
            while made.allows(now):
                made.begin(1, now).succeeded(now)
                begun += 1
    assert 595 <= begun <= 612


def test_a_rebalance_gives_no_tokens_away() -> None:
    made = control(a_minute=60)
    made.share(1, 1, 0.0)
    begin(made, 1)
    for n in range(100):
        made.share(1 + n % 2, 2, 0.001 * n)
        assert not made.allows(0.001 * n)


def test_a_message_that_needs_no_call_costs_no_token() -> None:
    made = control(a_minute=60)
    for _ in range(10):
        [call] = begin(made, 1)
        call.abandoned()
    begin(made, 1)
    assert not made.allows(0.0)
    assert made.next_time(0.0) == pytest.approx(1.0)


def test_no_partitions_no_rate() -> None:
    made = control(a_minute=60)
    begin(made, 1)
    made.share(0, 4, 0.0)
    assert not made.allows(1e6)
    assert made.next_time(1e6) is None
    made.share(4, 4, 1e6)
    assert made.next_time(1e6) == pytest.approx(1e6 + 1)


def test_without_a_rate_a_bucket_is_never_empty() -> None:
    bucket = Bucket(0.0)
    for _ in range(1000):
        assert bucket.next_at(0.0) == 0.0
        bucket.take(0.0)
    bucket.put_back()
    assert bucket.next_at(5.0) == 5.0


def test_throttles_lower_the_slots() -> None:
    made = control(10)
    calls = begin(made, 10)
    for call in calls[:9]:
        call.succeeded(1.0)
    calls[9].failed(error(Failure.THROTTLE), 1.0)
    assert made.slots == 8
    assert made.state is State.CLOSED


def test_an_outage_is_the_circuits_business() -> None:
    """However the server fails, its return finds all slots within a few round trips."""
    made = control(32)
    for failure in (Failure.THROTTLE, Failure.TRANSIENT):
        for call in begin(made, 32, 10.0):
            call.failed(error(failure), 10.0)
        assert made.is_open
        now = 10.0
        for _ in range(60):
            due = made.next_time(now)
            assert due is not None
            now = due
            [probe] = begin(made, 1, now)
            probe.failed(error(failure), now)
        now = made.next_time(now) or now
        rounds = 0
        while made.state is not State.CLOSED:
            rounds += 1
            calls: list[Call] = []
            while made.allows(now) and len(calls) < made.slots:
                calls.append(made.begin(len(calls) + 1, now))
            for call in calls:
                call.succeeded(now + 1)
            now += 1
        assert rounds <= 7
        assert made.slots == 32


@pytest.mark.parametrize("most", [1, 2, 3, 5, 20])
def test_a_server_that_refuses_more_than_a_few_gets_its_few(most: int) -> None:
    """It answers within a second, and refuses at once what is too much."""
    made = control(50)
    answered, refused, opened, running = 0, 0, 0, deque[Call]()
    for second in range(300):
        now = float(second)
        while running and made.state is not State.OPEN:
            running.popleft().succeeded(now)
            answered += 1
        running.clear()
        while made.allows(now) and len(running) < made.slots:
            call = made.begin(len(running) + 1, now)
            if len(running) < most:
                running.append(call)
                continue
            was_open = made.is_open
            call.failed(error(Failure.THROTTLE), now)
            refused += 1
            opened += made.is_open and not was_open
    assert opened <= 1, "the circuit is for servers that take nothing"
    assert answered >= 0.8 * most * 290
    assert refused <= 0.15 * answered + 50


def test_probes_are_far_apart() -> None:
    made = control(32)
    for call in begin(made, 32):
        call.failed(error(Failure.TRANSIENT), 0.0)
    now, probes = 0.0, 0
    while now < 300:
        now = made.next_time(now) or now
        [probe] = begin(made, 1, now)
        assert not made.allows(now)
        probe.failed(error(Failure.TRANSIENT), now)
        probes += 1
    assert probes <= 300 / 5 + 3


def test_a_clock_that_stands_still_while_the_flow_fails_for_all() -> None:
    made = control(1)
    assert made.clock(10.0) == 10.0
    made.trip(error(Failure.CONFIGURATION), 10.0)
    assert made.clock(70.0) == 10.0
    made.recover(110.0)
    assert made.clock(110.0) == 10.0
    assert made.clock(115.0) == 15.0
    [call] = begin(made, 1, 120.0)
    call.failed(error(Failure.CONFIGURATION), 120.0)
    due = made.next_time(120.0)
    assert due is not None
    [call] = begin(made, 1, due)
    call.succeeded(due + 1)
    assert made.clock(due + 2) == pytest.approx(21.0)


@pytest.mark.parametrize(
    ("more", "slots"),
    [
        ({"reason": "FlowTimeout"}, 70),
        ({"status": 504}, 70),
        ({"status": 524}, 70),
        ({"reason": "FlowUnreachable"}, 100),
    ],
)
def test_calls_that_time_out_count_as_slow_ones(more: dict[str, Any], slots: int) -> None:
    """A server that is full may answer some calls and keep the others waiting too long.

    A connection that is lost after so long says nothing about how long the answer would have taken.
    """
    made = control(100)
    lost = error(Failure.TRANSIENT, outcome_unknown=True, **more)
    now = 0.0
    for seconds in (1.0, 1.0, *[10.0] * 8):
        slow = [made.begin(100, now) for _ in range(40)]
        quick = [made.begin(100, now + seconds - 1.0) for _ in range(60)]
        now += seconds
        for n in range(100):
            if n % 5 >= 2:
                quick.pop().succeeded(now)
            elif seconds > 5:
                slow.pop().failed(lost, now)
            else:
                slow.pop().succeeded(now)
        if made.slots < 100:
            break
    assert made.state is State.CLOSED
    assert made.slots == slots


@settings(max_examples=150)
@given(
    per_replica=st.integers(1, 6),
    steps=st.lists(
        st.tuples(
            st.sampled_from([*Failure, "ok", "drop", "share"]), st.integers(0, 9), st.floats(0, 5)
        ),
        max_size=120,
    ),
)
def test_from_any_history_a_healthy_flow_gets_all_its_slots_again(
    per_replica: int, steps: list[tuple[str, int, float]]
) -> None:
    made = control(per_replica)
    now = 0.0
    calls: list[Call] = []
    for what, which, seconds in steps:
        while made.allows(now) and len(calls) < made.slots:
            calls.append(made.begin(len(calls) + 1, now))
        now += seconds
        if what == "share":
            made.share(which % 4 + 1, 4, now)
        elif calls:
            call = calls.pop(which % len(calls))
            match what:
                case "ok":
                    call.succeeded(now)
                case "drop":
                    call.abandoned()
                case _:
                    call.failed(error(Failure(what)), now)
    for call in calls:
        call.abandoned()
    made.share(4, 4, now)
    for _ in range(500):
        if made.state is State.CLOSED and made.slots == per_replica:
            break
        now = made.next_time(now) or now
        calls = []
        while made.allows(now) and len(calls) < made.slots:
            calls.append(made.begin(len(calls) + 1, now))
        assert calls
        for call in calls:
            call.succeeded(now + 0.1)
        now += 0.1
    assert (made.state, made.slots, made.reason) == (State.CLOSED, per_replica, "")
