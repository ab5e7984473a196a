"""When a failed message runs again, and when it does not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.spec import Retry
from flowbinding_worker.control.retry import Backoff, RetryPolicy
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Failure, Partition, ProcessingError, Record, Stage
from flowbinding_worker.tracker import Tracker


def job() -> Job:
    return Job(Record(Partition("in", 0), 0, None, b"", (), 0), Tracker())


def error(
    failure: Failure, after: float | None = None, *, unknown: bool = False
) -> ProcessingError:
    return ProcessingError(
        "no",
        failure=failure,
        stage=Stage.CALL,
        reason="Test",
        retry_after_seconds=after,
        outcome_unknown=unknown,
    )


def policy(**settings: float | str) -> RetryPolicy:
    return RetryPolicy(Retry.model_validate(settings), Random(1))


@given(
    initial=st.floats(0.01, 100),
    cap=st.floats(0.01, 1000),
    attempt=st.integers(1, 2000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_full_jitter_stays_below_its_bound(
    initial: float, cap: float, attempt: int, draw: float
) -> None:
    bound = min(cap, initial * 2.0 ** min(attempt - 1, 64))
    assert 0 <= Backoff(initial, cap).delay(attempt, draw) <= bound


def test_transient_failures_count_up_to_a_dead_letter() -> None:
    tried, made = job(), policy(maxAttempts=3)
    delays = [
        made.delay(tried, error(Failure.TRANSIENT), spared=False, clock=0.0) for _ in range(3)
    ]
    assert [d is None for d in delays] == [False, False, True]
    assert tried.attempts == 3


def test_waits_differ() -> None:
    made = policy(maxAttempts=1000, initialBackoffSeconds=10, maxBackoffSeconds=10)
    tried = job()
    delays = {
        made.delay(tried, error(Failure.TRANSIENT), spared=False, clock=0.0) for _ in range(20)
    }
    assert len(delays) == 20


def test_poison_is_dead_at_once() -> None:
    tried = job()
    assert policy().delay(tried, error(Failure.POISON), spared=True, clock=0.0) is None
    assert tried.attempts == 1


@pytest.mark.parametrize("failure", [Failure.TRANSIENT, Failure.CONFIGURATION])
def test_a_flow_that_fails_for_all_costs_no_attempts(failure: Failure) -> None:
    tried, made = job(), policy(maxAttempts=1)
    for _ in range(10):
        assert made.delay(tried, error(failure), spared=True, clock=0.0) == 0.0
    assert tried.attempts == 0


def test_throttling_costs_no_attempts_and_waits_as_told() -> None:
    tried, made = job(), policy(maxAttempts=1, maxBackoffSeconds=2)
    for _ in range(10):
        delay = made.delay(tried, error(Failure.THROTTLE, 3.0), spared=False, clock=0.0)
        assert delay == 3.0
    assert tried.attempts == 0


def test_nobody_waits_for_hours() -> None:
    delay = policy().delay(job(), error(Failure.THROTTLE, 86_400), spared=False, clock=0.0)
    assert delay == 300


def test_retry_after_holds_for_transient_failures_too() -> None:
    delay = policy().delay(job(), error(Failure.TRANSIENT, 7.0), spared=False, clock=0.0)
    assert delay is not None
    assert delay >= 7.0


def test_throttling_that_lasts_costs_an_attempt_for_ten_runs_and_a_minute() -> None:
    tried, made = job(), policy(maxAttempts=2, maxBackoffSeconds=1)
    costs = []
    for n in range(1, 100):
        if made.delay(tried, error(Failure.THROTTLE, 10.0), spared=False, clock=0.0) is None:
            costs.append(n)
            break
        if tried.attempts > len(costs):
            costs.append(n)
    assert costs == [10, 20], "no sooner than after 90 s each"


@pytest.mark.parametrize("asked", [None, 0.5, 5.0, 30.0])
def test_a_minute_of_throttling_makes_no_dead_letter(asked: float | None) -> None:
    tried, made = job(), policy(maxAttempts=1, initialBackoffSeconds=0.01, maxBackoffSeconds=0.5)
    waited = 0.0
    while waited < 60:
        delay = made.delay(tried, error(Failure.THROTTLE, asked), spared=False, clock=0.0)
        assert delay is not None
        waited += delay
    assert tried.attempts == 0


def test_throttling_while_the_circuit_is_open_costs_nothing() -> None:
    tried, made = job(), policy(maxAttempts=1)
    for _ in range(100):
        assert made.delay(tried, error(Failure.THROTTLE, 60.0), spared=True, clock=0.0) is not None
    assert tried.attempts == 0


@pytest.mark.parametrize("failure", [Failure.TRANSIENT, Failure.THROTTLE])
@pytest.mark.parametrize("spared", [False, True])
def test_a_run_that_may_have_happened_is_not_repeated_where_it_must_not(
    failure: Failure, *, spared: bool
) -> None:
    tried, made = job(), policy(maxAttempts=5, onTimeout="DeadLetter")
    failed = error(failure, unknown=True)
    assert made.delay(tried, failed, spared=spared, clock=0.0) is None
    assert tried.attempts == 1
    letter = made.letter(tried, failed)
    assert (letter.reason, letter.failure) == ("OutcomeUnknown", failure)
    assert "onTimeout" in str(letter)


def test_what_surely_did_not_happen_is_repeated_all_the_same() -> None:
    tried, made = job(), policy(maxAttempts=5, onTimeout="DeadLetter")
    failed = error(Failure.TRANSIENT)
    assert made.delay(tried, failed, spared=False, clock=0.0) is not None
    assert made.letter(tried, failed) is failed


def test_by_default_an_unknown_outcome_is_tried_again() -> None:
    tried, made = job(), policy(maxAttempts=2)
    failed = error(Failure.TRANSIENT, unknown=True)
    assert made.delay(tried, failed, spared=False, clock=0.0) is not None
    assert made.delay(tried, failed, spared=False, clock=0.0) is None
    assert made.letter(tried, failed) is failed


@pytest.mark.parametrize("failure", [Failure.TRANSIENT, Failure.THROTTLE])
def test_there_is_an_end_to_trying(failure: Failure) -> None:
    """The last attempt comes when the time is up, however long the back-off would be."""
    made = policy(
        maxAttempts=1000, initialBackoffSeconds=40, maxBackoffSeconds=40, maxElapsedSeconds=100
    )
    for _ in range(20):
        tried, now = job(), 1000.0
        while (delay := made.delay(tried, error(failure), spared=False, clock=now)) is not None:
            now += delay
        assert now == pytest.approx(1100.0)


def test_no_attempt_sooner_than_the_server_wants_just_because_time_is_up() -> None:
    tried, made = job(), policy(maxElapsedSeconds=100)
    assert made.delay(tried, error(Failure.THROTTLE, 200.0), spared=False, clock=0.0) is None


def test_an_outage_does_not_use_up_the_time() -> None:
    """The clock stands still meanwhile; and what fails then is spared in any case."""
    tried, made = job(), policy(maxAttempts=1000, maxElapsedSeconds=10, maxBackoffSeconds=1)
    assert made.delay(tried, error(Failure.TRANSIENT), spared=False, clock=5.0) is not None
    for _ in range(100):
        for failure in (Failure.TRANSIENT, Failure.THROTTLE, Failure.CONFIGURATION):
            assert made.delay(tried, error(failure), spared=True, clock=16.0) is not None
    assert made.delay(tried, error(Failure.TRANSIENT), spared=False, clock=14.0) is not None
    assert made.delay(tried, error(Failure.TRANSIENT), spared=False, clock=15.0) is None


def test_a_repair_that_takes_long_does_not_use_up_the_time() -> None:
    tried, made = job(), policy(maxElapsedSeconds=10)
    for clock in (0.0, 100.0):
        assert made.delay(tried, error(Failure.CONFIGURATION), spared=False, clock=clock) == 0.0
