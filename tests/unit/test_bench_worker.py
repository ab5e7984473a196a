"""The arithmetic of `make bench-worker`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import write
from worker import profile_report, report
from worker.cases import SLOW, Case, Ordering, System, full, quick
from worker.measure import Sample, cpu_per_message, percentile, steady_rate


@given(
    slots=st.integers(1, 200),
    seconds=st.sampled_from([0.02, 0.1, 1.0]),
    gap=st.floats(0, 0.5),
    late=st.floats(0, 1),
)
def test_waves_give_the_rate_of_a_slot_exactly(
    slots: int, seconds: float, gap: float, late: float
) -> None:
    each = seconds * (1 + gap)
    times = [late + wave * each for wave in range(1, 40) for _ in range(slots)]
    rate = steady_rate(times, ramp=5 * each, window=20.5 * each, wave=slots)
    assert rate == pytest.approx(slots / each)


def test_a_slow_start_and_a_slow_end_do_not_count() -> None:
    times = [0.0, 1.0, *(2 + i / 100 for i in range(1000)), 20.0, 30.0]
    assert steady_rate(times, ramp=2.5, window=5, wave=10) == pytest.approx(100)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0, 1.0]])
def test_too_little_is_no_rate(times: list[float]) -> None:
    with pytest.raises(ValueError, match="too few"):
        steady_rate(times, ramp=0, window=5, wave=1)


def test_cpu_time_is_that_of_the_window() -> None:
    samples = [Sample(at, at * 100, at * 0.05 + (9 if at > 7 else 0), 0) for at in range(10)]
    assert cpu_per_message(samples, 2, 7) == pytest.approx(0.0005)
    with pytest.raises(ValueError, match="too few"):
        cpu_per_message(samples, 2.1, 2.9)


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([5, 1, 4, 2, 3], 0.5) == 3
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.99) == 7


def test_the_ideal_is_what_the_slots_allow() -> None:
    assert Case(System.WORKER, "0.1", 100, Ordering.KEY, 5).ideal == pytest.approx(1000)
    assert Case(System.WORKER, "0.1", 100, Ordering.PARTITION, 5).ideal == pytest.approx(120)
    assert Case(System.WORKER, SLOW, 100, Ordering.NONE, 5).ideal == pytest.approx(100)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in full()]
    assert len(names) == len(set(names))
    assert {case.name for case in quick()} <= set(names)


def test_a_profile_counts_each_function_once_a_stack() -> None:
    ours = "/x/flowbinding_worker/work.py:Work._run"
    theirs = "/v/lib/python3.11/site-packages/aiohttp/client.py:ClientSession._request"
    stacks = [(3, [theirs, ours, ours]), (1, [ours]), (4, ["/p/lib/python3.11/json/a.py:loads"])]
    assert dict(profile_report.by_library(stacks)) == {
        "aiohttp": 0.375,
        "flowbinding_worker/work": 0.125,
        "json": 0.5,
    }
    assert profile_report.by_function(stacks) == [("worker/work: Work._run", 0.5)]


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Benchmarks\n\nother\n")
    for figure in ("figure one", "figure two"):
        write(path, report.section([], [figure], ["a machine"], "make bench-worker"))
    text = path.read_text()
    assert "figure one" not in text
    assert text.count("figure two") == text.count(report.BEGIN) == text.count("other") == 1
