"""The circuit: when it opens, how it probes, and how it comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_worker.control.circuit import WINDOW, Call, Circuit, State
from flowbinding_worker.ports import Failure, ProcessingError, Stage


def error(failure: Failure, after: float | None = None) -> ProcessingError:
    return ProcessingError(
        "it said no", failure=failure, stage=Stage.CALL, reason="Test", retry_after_seconds=after
    )


def opened(slots: int = 8) -> Circuit:
    circuit = Circuit(slots)
    circuit.begin().failed(error(Failure.CONFIGURATION), 0.0)
    return circuit


def probe(circuit: Circuit) -> tuple[Call, float]:
    at = circuit.next_probe()
    assert at is not None
    assert not circuit.allows(at - 0.01)
    assert circuit.allows(at)
    call = circuit.begin()
    assert not circuit.allows(at + 1000), "one probe at a time"
    return call, at


def test_a_configuration_failure_opens_at_once() -> None:
    circuit = opened()
    assert circuit.state is State.OPEN
    assert (circuit.reason, circuit.message) == ("Test", "it said no")
    assert not circuit.allows(0.0)


def test_half_of_the_last_calls_failing_opens() -> None:
    circuit = Circuit(8)
    for turn in range(WINDOW):
        assert circuit.state is State.CLOSED
        call = circuit.begin()
        if turn % 2:
            call.failed(error(Failure.TRANSIENT), 0.0)
        else:
            call.succeeded()
    assert circuit.state is State.OPEN


def test_few_failures_and_poison_do_not_open() -> None:
    circuit = Circuit(8)
    for _ in range(WINDOW - 1):
        circuit.begin().failed(error(Failure.TRANSIENT), 0.0)
    circuit = Circuit(8)
    for _ in range(10 * WINDOW):
        circuit.begin().failed(error(Failure.POISON), 0.0)
    assert circuit.state is State.CLOSED


def test_probes_come_less_and_less_often_but_within_fifteen_seconds() -> None:
    circuit = opened()
    waits = []
    before = 0.0
    for _ in range(6):
        call, at = probe(circuit)
        waits.append(at - before)
        before = at
        call.failed(error(Failure.CONFIGURATION), at)
    assert waits == [2, 4, 8, 15, 15, 15]


def test_a_server_that_asks_for_time_gets_it() -> None:
    circuit = opened()
    call, at = probe(circuit)
    call.failed(error(Failure.THROTTLE, 60.0), at)
    assert circuit.next_probe() == at + 60


def test_recovery_doubles() -> None:
    circuit = opened(slots=8)
    call, now = probe(circuit)
    call.succeeded()
    assert circuit.reason == ""
    rounds = []
    while circuit.state is State.RECOVERING:
        calls: list[Call] = []
        while circuit.allows(now) and len(calls) < 8:
            calls.append(circuit.begin())
        rounds.append(len(calls))
        for each in calls:
            each.succeeded()
    assert rounds == [2, 4]
    assert circuit.allows(now)


def test_recovery_that_fails_opens_again_soon() -> None:
    circuit = opened(slots=8)
    call, now = probe(circuit)
    call.succeeded()
    first, second = circuit.begin(), circuit.begin()
    first.failed(error(Failure.TRANSIENT), now)
    second.failed(error(Failure.TRANSIENT), now)
    assert circuit.state is State.OPEN


def test_calls_of_before_say_nothing() -> None:
    circuit = Circuit(8)
    good, bad = circuit.begin(), circuit.begin()
    circuit.begin().failed(error(Failure.CONFIGURATION), 0.0)
    call, at = probe(circuit)
    good.succeeded()
    assert not circuit.allows(at), "only the probe decides"
    bad.failed(error(Failure.CONFIGURATION), at)
    call.succeeded()
    assert circuit.state is State.RECOVERING


def test_a_probe_that_made_no_call_lets_the_next_try() -> None:
    circuit = opened()
    call, at = probe(circuit)
    call.abandoned()
    assert circuit.allows(at)


def test_a_call_counts_once() -> None:
    circuit = Circuit(1)
    call = circuit.begin()
    call.succeeded()
    call.failed(error(Failure.CONFIGURATION), 0.0)
    call.abandoned()
    assert circuit.state is State.CLOSED


@settings(max_examples=200)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ok", "config", "transient", "throttle", "drop"]), st.integers(0, 9)
        ),
        max_size=120,
    ),
    slots=st.integers(1, 6),
)
def test_it_never_locks_up_and_keeps_its_limits(steps: list[tuple[str, int]], slots: int) -> None:
    circuit = Circuit(slots)
    now = 0.0
    calls: list[Call] = []
    for what, which in steps:
        while circuit.allows(now) and len(calls) < slots:
            calls.append(circuit.begin())
        if calls:
            call = calls.pop(which % len(calls))
            match what:
                case "ok":
                    call.succeeded()
                case "drop":
                    call.abandoned()
                case _:
                    call.failed(
                        error(Failure({"config": "Configuration"}.get(what, what.capitalize()))),
                        now,
                    )
        now += 1.0
    for call in calls:
        call.abandoned()
    # From anywhere, a healthy flow closes it.
    for _ in range(200):
        if circuit.state is State.CLOSED:
            break
        now = max(now, circuit.next_probe() or now)
        assert circuit.allows(now)
        circuit.begin().succeeded()
    assert circuit.state is State.CLOSED
    assert circuit.reason == ""
