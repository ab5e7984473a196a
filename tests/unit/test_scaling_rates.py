"""How fast messages arrive: a flow is told from noise, from a burst, and from a change."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_operator.scaling import History, Sample, arrival_rate, flow_rate
from flowbinding_operator.scaling.rates import SLOW_SECONDS
from flowbinding_operator.scaling.saturation import MEASURE_SECONDS, Window, Work

TICK = 2.0


def samples(arrived: list[int]) -> list[Sample]:
    """Looks at an end offset that grows by so many from tick to tick."""
    result, end = [Sample(0.0, 0, 0)], 0
    for index, count in enumerate(arrived, 1):
        end += count
        result.append(Sample(TICK * index, 0, end))
    return result


def test_a_steady_flow() -> None:
    assert flow_rate(samples([10] * 90)) == pytest.approx(5)


def test_a_burst_is_no_flow_but_did_arrive() -> None:
    seen = samples([0] * 80 + [4800] + [0] * 9)
    assert flow_rate(seen) == 0
    assert arrival_rate(seen) > 20


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_a_burst_on_top_of_a_flow_hardly_counts(ticks: int) -> None:
    for after in range(40):
        burst = [3000 // ticks] * ticks
        seen = samples([10] * (90 - after - ticks) + burst + [10] * after)
        assert flow_rate(seen) < 7, after


def test_a_step_is_seen_within_fifteen_seconds() -> None:
    before = [4] * 90
    assert flow_rate(samples([*before, *[40] * 8][-90:])) == pytest.approx(20)
    # And so is the end of it, within half a minute.
    assert flow_rate(samples([*[40] * 75, *[4] * 15])) == pytest.approx(2)


def test_little_is_known_of_a_short_past() -> None:
    assert flow_rate(samples([])) == 0
    assert flow_rate(samples([100])) == 0
    # Six seconds of it, over half a minute.
    assert flow_rate(samples([10] * 3)) == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.5, 2, 10, 50])
def test_noise_is_no_change(rate: float) -> None:
    dice = random.Random(1)
    found = []
    for _ in range(50):
        arrived = [sum(dice.random() < rate * TICK / 1000 for _ in range(1000)) for _ in range(90)]
        found.append(flow_rate(samples(arrived)))
    assert min(found) > 0.6 * rate
    assert max(found) < 1.6 * rate


def test_a_lost_look_loses_no_messages() -> None:
    seen = samples([10] * 90)
    lost = [s if index % 5 else Sample(s.time) for index, s in enumerate(seen)]
    assert flow_rate(lost) == pytest.approx(flow_rate(seen), rel=0.05)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=90))
def test_rates_are_within_what_was_seen(arrived: list[int]) -> None:
    seen = samples(arrived)
    fastest = max(arrived, default=0) / TICK
    assert 0 <= flow_rate(seen) <= fastest + 1e-6
    assert 0 <= arrival_rate(seen) <= fastest + 1e-6


LOOKS = st.lists(
    st.tuples(st.sampled_from([0.5, 2.0, 9.0, 20.0, 200.0]), st.none() | st.integers(0, 99)),
    max_size=60,
)


@settings(deadline=None)
@given(LOOKS)
def test_what_is_kept_of_samples_gives_the_rates_of_all_of_them(
    looks: list[tuple[float, int | None]],
) -> None:
    history, whole, now = History(), list[Sample](), 0.0
    for seconds, end in looks:
        now += seconds
        whole.append(Sample(now, None if end is None else 0, end))
        history.observe(whole[-1])
    # The window begins with the last look that is older than it.
    first = max((i for i, s in enumerate(whole) if s.time <= now - SLOW_SECONDS), default=0)
    kept = whole[first:]
    assert [(s.time, s.end) for s in history.samples] == [(s.time, s.end) for s in kept]
    assert [(s.time, s.end) for s in reversed(history.samples[1:])] == [
        (s.time, s.end) for s in reversed(kept[1:])
    ]
    assert arrival_rate(history.samples) == arrival_rate(kept)
    assert flow_rate(history.samples) == flow_rate(kept)
    assert history.last == (whole[-1] if whole else None)


@given(st.lists(st.tuples(st.sampled_from([0.5, 2.0, 30.0]), st.integers(0, 9)), min_size=1))
def test_what_was_done_is_measured_over_the_last_seconds(steps: list[tuple[float, int]]) -> None:
    window, whole, now, done = Window(), list[Work](), 0.0, 0
    for seconds, count in steps:
        now, done = now + seconds, done + count
        whole.append(Work(now, done, count, 1, None, 0.0))
        window.add(whole[-1])
    first = max((i for i, w in enumerate(whole) if w.time <= now - MEASURE_SECONDS), default=0)
    kept = whole[first:]
    assert list(window.times) == [work.time for work in kept]
    assert list(window.waiting) == [work.waiting for work in kept]
    assert window.seconds == now - kept[0].time
    assert window.rate == (done - kept[0].done) / max(now - kept[0].time, 1.0)
    window.clear()
    assert window.seconds == 0
