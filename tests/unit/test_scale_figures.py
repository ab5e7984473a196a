"""Figures of the fleet measurement: what they say, and how sure they are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import write
from scale import burst
from scale.figures import BLOCKS, Scrape, growth, quantile
from scale.measure import Mark, Result, phase
from scale.report import misses, section, sentences, table

PAGE = """\
# HELP x Some.
flowbinding_operator_kubernetes_writes_total{kind="Status"} 12.0
flowbinding_operator_kubernetes_writes_total{kind="Event"} 3.0
process_resident_memory_bytes 1.048576e+08
process_cpu_seconds_total 2
flowbinding_operator_lag_poll_duration_seconds_bucket{le="0.1"} 0.0
flowbinding_operator_lag_poll_duration_seconds_bucket{le="0.5"} 99.0
flowbinding_operator_lag_poll_duration_seconds_bucket{le="+Inf"} 100.0
apiserver_request_total{resource="flowbindings",subresource="status",verb="PATCH"} 12
apiserver_request_total{resource="flowbindings",subresource="",verb="LIST"} 400
apiserver_request_total{resource="deployments",subresource="scale",verb="PATCH"} 2
apiserver_request_total{resource="deployments",subresource="status",verb="PUT"} 50
"""


def test_metrics_are_read_by_name_and_label() -> None:
    scrape = Scrape.of(PAGE)
    name = "flowbinding_operator_kubernetes_writes_total"
    assert scrape.sum(name) == 15
    assert scrape.sum(name, kind=("Event", "ConfigMap")) == 3
    assert scrape.sum("process_resident_memory_bytes") == 1.048576e8
    assert Scrape.of(PAGE, "process_").sum(name) == 0


def test_a_quantile_is_never_better_than_it_was() -> None:
    name = "flowbinding_operator_lag_poll_duration_seconds"
    before, after = Scrape(), Scrape.of(PAGE)
    assert quantile(before, after, name, 0.5) == 0.5
    assert quantile(before, after, name, 0.999) == float("inf")
    assert quantile(after, after, name, 0.5) is None


def test_a_phase_counts_both_sides() -> None:
    empty, page = Scrape(), Scrape.of(PAGE)
    found = phase("idle", Mark(0.0, empty, empty), Mark(10.0, page, page))
    assert (found.own_writes, found.seen_writes) == (1.5, 1.4)
    assert (found.cpu, found.rss) == (0.2, 1.048576e8)
    assert found.ticks == (0.5, 0.5)


@given(slope=st.floats(-5, 5), start=st.floats(0, 1000))
def test_a_straight_line_is_found(slope: float, start: float) -> None:
    found = growth([(float(t), start + slope * t) for t in range(240)])
    assert found is not None
    assert found.slope == pytest.approx(slope, abs=1e-6)


def test_it_is_as_sure_as_it_says() -> None:
    """With memory that wanders, the true slope is within the bounds about 95 times of a hundred."""
    rolls = random.Random(7)
    hits = 0
    for _ in range(400):
        wave, samples = 0.0, []
        for t in range(600):
            wave = 0.8 * wave + rolls.gauss(0, 1)
            samples.append((float(t), 100 + 0.01 * t + wave))
        found = growth(samples)
        assert found is not None
        hits += found.low <= 0.01 <= found.high
    assert 0.9 <= hits / 400 <= 0.99


def test_few_samples_tell_no_growth() -> None:
    assert growth([(0.0, 1.0)] * (2 * BLOCKS - 1)) is None
    assert growth([(0.0, 1.0)] * (2 * BLOCKS)) is None


def test_the_report_names_what_was_missed_and_replaces_itself(tmp_path: Path) -> None:
    scrape = Scrape.of(PAGE)
    marks = Mark(0.0, Scrape(), Scrape()), Mark(10.0, scrape, scrape)
    phases = [phase("cold start", *marks), phase("idle", *marks)]
    result = Result(1000, 100, applied=61.0, ready=70.0, peak=1e8, phases=phases)
    missed = misses(result)
    assert [text.split()[0] for text in missed] == ["cold", "idle"]
    assert table([result]).row_count == 2
    assert "61.0 s" in sentences(result)[0]
    path = tmp_path / "RESULTS.md"
    path.write_text("# Benchmarks\n\n<!-- other -->\n")
    for applied in (61.0, 12.0):
        result.applied = applied
        write(path, section([result], "make scale"))
    text = path.read_text()
    assert text.startswith("# Benchmarks\n\n<!-- other -->\n")
    assert text.count("## Fleet") == 1
    assert "12.0 s" in text
    assert "61.0 s" not in text


def test_what_was_measured_before_a_phase_that_never_ended_is_reported() -> None:
    marks = Mark(0.0, Scrape(), Scrape()), Mark(10.0, Scrape(), Scrape())
    late = "all have scaled: not within 600 s"
    result = Result(5000, 500, 300.0, 310.0, phases=[phase("cold start", *marks)], unfinished=late)
    (said,) = sentences(result)
    assert "300.0 s" in said
    assert late in said
    assert late in misses(result)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([(-0.5, 8), (1.5, 24)], "met"),
        ([(6.0, 24)], "missed"),
        ([(1.0, 8), (3.0, 24)], "missed"),
    ],
)
def test_a_burst_is_answered_in_time_and_in_one_step(
    steps: list[tuple[float, int]], told: str, tmp_path: Path
) -> None:
    answers = [burst.Answer(steps)] * 5
    (said,) = burst.sentences(answers)
    assert said.endswith(f"{told}.")
    path = tmp_path / "RESULTS.md"
    path.write_text("# Benchmarks\n\n<!-- other -->\n")
    for _ in range(2):
        write(path, burst.section(answers, "make bench-burst"))
    text = path.read_text()
    assert text.startswith("# Benchmarks\n\n<!-- other -->\n")
    assert text.count("## Burst") == text.count(said) == 1
    assert text.count(f"| {steps[-1][0]:.2f} | {len(steps)} |") == 5
