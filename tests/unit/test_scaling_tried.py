"""Workers that were too few for a flow are not tried again at once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flowbinding_operator.scaling import Decision
from flowbinding_operator.scaling.tried import FIRST_WAIT, LONGEST_WAIT, TRIED_SECONDS, Tried
from scaling_world import Topic, spec_of

ONE = {"perReplica": 1}


def changes(seen: list[Decision]) -> int:
    return sum(a.replicas != b.replicas for a, b in pairwise(seen))


def undone(tried: Tried, at: float, flow: float) -> None:
    """A fall from 8 workers to 6 that is undone."""
    tried.follow(at, 8, 6, flow)
    tried.follow(at + 60, 6, 8, flow)


def test_a_scale_down_that_was_undone_waits_twice_as_long_each_time() -> None:
    tried, now, wait = Tried(), 0.0, FIRST_WAIT
    for _ in range(6):
        undone(tried, now, 12.0)
        now += 60
        assert tried.too_few(12.0, now + wait - 1) == 6
        assert tried.too_few(12.0, now + wait) == 0
        assert tried.knows(12.0)
        now, wait = now + wait, min(2 * wait, LONGEST_WAIT)
    assert wait == LONGEST_WAIT


def test_it_is_about_a_flow_like_that() -> None:
    tried = Tried()
    undone(tried, 0.0, 12.0)
    # Three standard deviations of a mean over three minutes: 0.77.
    assert tried.too_few(11.5, 61) == 6
    assert tried.too_few(11.0, 61) == 0
    assert tried.too_few(20.0, 61) == 6


def test_what_is_needed_for_more_than_before_says_nothing() -> None:
    tried = Tried()
    tried.follow(0.0, 8, 6, 12.0)
    tried.follow(60.0, 6, 8, 14.0)
    assert tried.too_few(14.0, 61.0) == 0


def test_steps_on_the_way_up_are_no_trial() -> None:
    tried = Tried()
    tried.follow(0.0, 0, 1, 12.0)
    tried.follow(10.0, 1, 4, 12.0)
    tried.follow(20.0, 4, 8, 12.0)
    assert tried.too_few(12.0, 21.0) == 0
    # But these were enough for a while.
    tried.follow(20.0 + TRIED_SECONDS, 8, 12, 12.0)
    assert tried.too_few(12.0, 21.0 + TRIED_SECONDS) == 8


def test_other_times_end_it() -> None:
    tried = Tried()
    undone(tried, 0.0, 2.0)
    tried.follow(100.0, 8, 24, 20.0)
    tried.follow(400.0, 24, 8, 2.0)
    assert not tried.knows(2.0)


@pytest.mark.parametrize("rate", [12.1, 12.2, 12.5, 13.0])
def test_a_rate_just_above_what_a_level_does_settles(rate: float) -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    # An hour for finding out that 12 workers do not do it.
    before = topic.watch(3600, rate / 24)
    assert changes(before[600:]) <= 3
    after = topic.watch(3600, rate / 24)
    assert {decision.replicas for decision in after} == {24}


def test_a_rate_that_a_level_just_does_stays_there() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(600, 12 / 24)
    assert {decision.replicas for decision in topic.watch(3600, 12 / 24)} == {12}


def test_less_than_full_use_keeps_headroom() -> None:
    topic = Topic(spec_of({"maxReplicas": 24, "targetUtilization": 80}, ONE))
    topic.watch(600, 11 / 24)
    assert topic.history.replicas == 24
    full = Topic(spec_of({"maxReplicas": 24}, ONE))
    full.watch(600, 11 / 24)
    assert full.history.replicas == 12


def test_below_full_use_a_rise_is_not_waited_with() -> None:
    topic = Topic(spec_of({"maxReplicas": 24, "targetUtilization": 90}, ONE))
    topic.watch(400, 10 / 24)
    assert topic.history.replicas == 12
    # 12 workers would do this for ever.
    assert topic.watch(200, 11.9 / 24)[-1].replicas == 24
