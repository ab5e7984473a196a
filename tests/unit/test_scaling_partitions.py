"""What single partitions and the backend do to scaling: hot, stuck, slow, full."""

from __future__ import annotations

import pytest

from flowbinding_api.reasons import Reason
from flowbinding_operator.conditions import View
from flowbinding_operator.scaling import Sample
from flowbinding_operator.scaling.levels import level
from flowbinding_operator.scaling.partitions import PartitionBook
from flowbinding_operator.status import status_of
from scaling_world import TICK, Topic, World, spec_of

ONE = {"perReplica": 1}
"""One message a second for each worker."""


def test_more_in_one_partition_than_a_worker_can_do_is_said_and_not_scaled_for() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(600, [2.0] + [0.1] * 23)
    decision = topic.look([2.0] + [0.1] * 23)
    assert (decision.limited, decision.hot) == (Reason.HOT_PARTITION, 0)
    # 1 a second of the hot one can be done, and 2.3 of the others.
    assert decision.replicas is not None
    assert 4 <= decision.replicas <= 5


def test_a_busy_partition_that_one_worker_can_do_gets_the_workers_that_it_takes() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(900, [0.5] + [0.1] * 23)
    # Four of the others fit beside it. Shared evenly, 2.8 messages a second need three workers.
    decision = topic.look([0.5] + [0.1] * 23)
    assert decision.replicas == 5
    assert decision.limited is None
    waiting = [end - done for end, done in zip(topic.ends, topic.done, strict=True)]
    assert max(waiting) < 10


def test_workers_are_no_more_than_partitions_with_messages() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(400)
    topic.burst(1000, range(3))
    assert topic.look().replicas == 3


def test_a_stuck_partition_is_left_out_after_a_while() -> None:
    timeout = {"backend": "Echo", "timeoutSeconds": 60}
    topic = Topic(spec_of({"maxReplicas": 24}, ONE, flow=timeout))
    stuck = frozenset({7})
    before = topic.watch(150, 0.2, stuck=stuck)[-1]
    assert before.stalled == ()
    decisions = topic.watch(900, 0.2, stuck=stuck)
    last = decisions[-1]
    assert (last.limited, last.stalled) == (Reason.PARTITION_STALLED, (7,))
    # 23 partitions, a message in 5 seconds of each.
    assert last.replicas == 5
    assert max(d.replicas or 0 for d in decisions) <= 6
    # It counts again as soon as something of it is done.
    topic.watch(30, 0.2)
    assert topic.look(0.2).stalled == ()


def test_nothing_is_stuck_while_nobody_works() -> None:
    topic = Topic(spec_of({"maxReplicas": 1, "activation": {"lag": 10**6, "maxAgeSeconds": 4000}}))
    topic.burst(1, range(3))
    assert topic.watch(1000)[-1].stalled == ()


def test_when_nothing_moves_at_all_no_workers_are_added() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(60, 0.05)
    all_stuck = frozenset(range(24))
    topic.watch(190, 0.05, stuck=all_stuck)
    before = topic.history.replicas
    decision = topic.watch(600, 1.0, stuck=all_stuck)[-1]
    assert decision.replicas == before
    assert decision.limited is Reason.PARTITION_STALLED


@pytest.mark.parametrize("stopped", [range(24), range(6)])
def test_what_a_down_server_holds_up_is_not_for_partitions_to_answer_for(stopped: range) -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.2)
    before, topic.trouble = topic.history.replicas, Reason.FLOW_UNREACHABLE.value
    arriving = [1.0 if index in stopped else 0.0 for index in range(24)]
    seen = topic.watch(1200, arriving, stuck=frozenset(stopped))
    # Longer than a partition takes to count as stuck.
    assert {d.limited for d in seen} <= {None, Reason.BACKEND_SATURATED}
    assert {d.replicas for d in seen} == {before}


@pytest.mark.parametrize(
    "trouble",
    [
        Reason.SCHEMA_REGISTRY_UNREACHABLE,
        Reason.SCHEMA_REGISTRY_UNAUTHORIZED,
        Reason.SCHEMA_REGISTRY_MISCONFIGURED,
    ],
)
def test_without_its_schema_registry_a_binding_gets_no_more_workers(trouble: Reason) -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(60, 0.05)
    before, topic.trouble = topic.history.replicas, trouble.value
    decision = topic.watch(60, 1.0, stuck=frozenset(range(24)))[-1]
    assert (decision.replicas, decision.limited) == (before, Reason.BACKEND_SATURATED)


def test_a_lower_target_finds_late_partitions_as_soon_as_if_it_had_always_been_that() -> None:
    book = PartitionBook()
    for time in range(0, 600, 2):
        book.observe(time, (0,), (0,), working=True)
        book.late(4500)
    for time in range(600, 700, 2):
        book.observe(time, (0,), (0,), working=True)
        book.late(12)
    for count, time in enumerate(range(700, 712, 2)):
        # Of what has come at once, one message is done with every look.
        book.observe(time, (100,), (count,), working=True)
        assert book.late(12) == []
    book.observe(712, (100,), (8,), working=True)
    assert book.late(12) == [0]


def test_a_full_backend_gets_no_more_workers() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.1)
    seen = topic.watch(1500, 0.5, capacity=4.0)
    full = [d for d in seen if d.limited is Reason.BACKEND_SATURATED]
    assert full, {d.limited for d in seen}
    # Without that, every worker more would make runs slower, and slower runs would ask for more
    # workers: there would be 24 all the time.
    assert sum(TICK for d in full if (d.replicas or 0) <= 12) >= 300


def test_a_full_backend_that_gets_room_is_used_again() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.1)
    seen = topic.watch(600, 0.5, capacity=4.0)
    assert seen[-1].limited is Reason.BACKEND_SATURATED
    after = topic.watch(700, 0.5)
    assert max(d.replicas or 0 for d in after) >= 12
    assert after[-1].limited is None
    assert sum(topic.ends) - sum(topic.done) < 60


@pytest.mark.parametrize("reason", ["FlowFailing", "FlowUnauthorized", "OutputUnavailable"])
def test_no_workers_are_added_against_troubles_that_they_do_not_cure(reason: str) -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.05)
    before = topic.history.replicas
    topic.trouble = reason
    topic.burst(100)
    decision = topic.look(0.05)
    assert (decision.replicas, decision.limited) == (before, Reason.BACKEND_SATURATED)
    topic.trouble = ""
    assert topic.look(0.05).replicas == 24


def test_trouble_keeps_nobody_asleep() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.trouble = "FlowUnreachable"
    topic.burst(100)
    assert topic.look().replicas == 24


def test_messages_done_beyond_an_unfinished_one_are_no_backlog() -> None:
    world = World(spec_of({"maxReplicas": 24}), partitions=2, replicas=1)
    # Partition 0 is committed up to its first message, which hangs; 900 behind it are done.
    sample = Sample(
        1002.0, 1000, 2000, 2, ends=(1000, 1000), done=(900, 1000), workers=1, seconds_per_message=1
    )
    assert sample.unfinished == 100
    world.history.observe(sample)
    assert world._decide(sample).demand_rate == pytest.approx(100 / 29)


def test_workers_that_hold_back_for_the_backend_get_no_company() -> None:
    world = World(spec_of({"maxReplicas": 24}, {"perReplica": 10}), replicas=2)
    held = world.tick(7000, slots=5.0, workers=2)
    assert (held.replicas, held.limited) == (2, Reason.BACKEND_SATURATED)
    assert world.tick(7000, slots=10.0, workers=2).replicas == 24
    # Shares of a common limit are no holding back.
    shared = World(spec_of({"maxReplicas": 24}, {"perReplica": 10, "maxInFlight": 60}), replicas=8)
    assert shared.tick(7000, slots=7.5, workers=8).limited is Reason.IN_FLIGHT_LIMIT


def test_what_workers_are_seen_to_do_counts_when_they_have_enough_to_do() -> None:
    spec = spec_of({"maxReplicas": 24, "behavior": {"scaleUp": {"selectPolicy": "Disabled"}}}, ONE)
    topic = Topic(spec, replicas=4)
    topic.burst(2000)
    # Half of the time of a worker goes somewhere else than into runs.
    topic.seconds = 2.0
    for _ in range(60):
        decision = topic.look()
        topic.history.seconds_per_message = 1.0
    assert decision.rate_per_replica == pytest.approx(0.5, rel=0.25)


def test_a_mean_over_few_runs_is_not_believed_at_once_but_a_change_is() -> None:
    world = World(spec_of({"maxReplicas": 24}))
    world.tick(5, seconds_per_message=10.0)
    assert world.tick(5, seconds_per_message=11.0).seconds_per_message == pytest.approx(10, 0.02)
    for _ in range(60):
        decision = world.tick(5, seconds_per_message=30.0)
    assert decision.seconds_per_message == pytest.approx(30, 0.2)


@pytest.mark.parametrize(
    ("demand", "expected"), [(0, 0), (0.1, 1), (11.9, 12), (12.1, 24), (23.9, 24), (30.5, 31)]
)
def test_levels(demand: float, expected: int) -> None:
    assert level(demand, 1.0, 24) == expected


def test_the_status_tells_what_a_decision_was_made_from() -> None:
    from flowbinding_api.binding import parse_binding
    from flowbinding_api.status import FlowBindingStatus
    from flowbinding_operator.events import happenings
    from flowbinding_operator.lag import Observation
    from flowbinding_operator.workers import Workers
    from operator_fakes import manifest

    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.burst(100)
    decision = topic.look()
    view = View(Observation(0.0, lag=2400, end=2400, partitions=24), decision, Workers())
    old = FlowBindingStatus(desired_replicas=0)
    status = status_of(parse_binding(manifest()), old, view, now="T", now_ms=0)
    assert (status.desired_replicas, status.recommended_replicas) == (24, 24)
    assert status.demand_rate == 24
    limited = next(c for c in status.conditions if c.type == "ScalingLimited")
    assert (limited.status, limited.reason) == ("True", "PartitionLimit")
    scaled = next(item for item in happenings(old, status) if item.reason == "Scaled")
    assert scaled.note == (
        "from 0 to 24 replicas: PartitionLimit "
        "(lag 2400, 0/s arrive, 24/s to be done, 1/s per worker)"
    )


def test_a_hot_partition_and_stuck_ones_are_told_by_their_names() -> None:
    from flowbinding_api.binding import parse_binding
    from flowbinding_api.status import FlowBindingStatus
    from flowbinding_operator.lag import Observation, Partition
    from flowbinding_operator.scaling import Decision
    from flowbinding_operator.workers import Workers
    from operator_fakes import manifest

    def message(decision: Decision) -> str:
        listed = (Partition("a", 0), Partition("a", 1), Partition("b", 0))
        view = View(Observation(0.0, lag=9, end=9, listed=listed), decision, Workers())
        old = FlowBindingStatus()
        status = status_of(parse_binding(manifest()), old, view, now="T", now_ms=0)
        return next(c.message for c in status.conditions if c.type == "ScalingLimited")

    hot = Decision(1, Reason.HOT_PARTITION, Reason.HOT_PARTITION, hot=2)
    assert message(hot) == "b/0 gets more than one worker can do"
    stuck = Decision(1, Reason.ARRIVALS, Reason.PARTITION_STALLED, stalled=(1, 2))
    assert message(stuck) == "nothing is done of a/1, b/0"
    nothing = Decision(1, Reason.ARRIVALS, Reason.PARTITION_STALLED)
    assert message(nothing) == "nothing is done of any partition"
    many = Decision(1, Reason.ARRIVALS, Reason.PARTITION_STALLED, stalled=(0,) * 11)
    assert message(many).endswith("a/0 and 3 more")


def test_late_partitions_get_workers_that_hold_fewer_but_one_step_only() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(400, 0.22)
    settled = topic.history.replicas
    assert settled == 6
    # One worker's partitions get behind by 45 s of its work: the sum hardly shows it.
    topic.burst(11, range(0, 24, 6))
    seen = topic.watch(90, 0.22)
    assert max(d.replicas or 0 for d in seen) == 8
    # Not because of what waits: for 40 of these 90 seconds nothing was late.
    assert seen[16].replicas == settled
    assert topic.watch(400, 0.22)[-1].replicas == settled


def test_a_backlog_in_time_is_left_to_the_headroom() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(400, 0.1)
    settled = topic.history.replicas
    topic.burst(3)
    assert {d.replicas for d in topic.watch(60, 0.1)} == {settled}


def test_a_full_backend_is_found_out_within_a_minute_after_the_workers_are_up() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.1)
    full = Reason.BACKEND_SATURATED
    seen = topic.watch(400, 0.5, capacity=4.0)
    first = next(n for n, d in enumerate(seen) if d.limited is full)
    scaled = max(n for n in range(1, first) if seen[n].replicas != seen[n - 1].replicas)
    assert 30 < (first - scaled) * TICK <= 60


def test_a_backend_that_stays_full_is_tried_less_and_less_often() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, ONE))
    topic.watch(300, 0.1)
    seen = topic.watch(3600, 0.5, capacity=4.0)
    limits = [d.limited is Reason.BACKEND_SATURATED for d in seen]
    ends = [n * TICK for n in range(1, len(limits)) if limits[n - 1] and not limits[n]]
    assert len(ends) == 2
    assert ends[1] - ends[0] > 1200


def test_a_few_late_messages_are_no_work_for_another_worker() -> None:
    topic = Topic(spec_of({"maxReplicas": 24}, {"perReplica": 20}))
    topic.watch(400, 0.03)
    assert topic.history.replicas == 1
    # Two that hang while the partition goes on: a worker does 20 a second.
    for index in range(24):
        topic.ends[index] += 2
        topic.watch(4, 0.03)
        topic.done[index] -= 2
    assert {d.replicas for d in topic.watch(120, 0.03)} == {1}
