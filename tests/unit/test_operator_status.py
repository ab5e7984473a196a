"""What a status says, when it is worth a write, and which Events go with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flowbinding_api.binding import parse_binding
from flowbinding_api.reasons import Reason
from flowbinding_api.status import FlowBindingStatus
from flowbinding_operator import status
from flowbinding_operator.conditions import View
from flowbinding_operator.events import happenings
from flowbinding_operator.lag import Observation, Summary, Trouble
from flowbinding_operator.scaling import Decision
from flowbinding_operator.status import status_of
from flowbinding_operator.workers import Workers, observe
from operator_fakes import manifest

BINDING = parse_binding(manifest())
GOOD = View(
    Observation(0.0, lag=0, end=5, partitions=3),
    Decision(0, Reason.IDLE, lag=0, arrival_rate=0.123456),
    Workers(),
)


def made(view: View, old: FlowBindingStatus | None = None, now: str = "T1") -> FlowBindingStatus:
    return status_of(BINDING, old or FlowBindingStatus(), view, now=now, now_ms=10_000)


def condition(made: FlowBindingStatus, kind: str) -> tuple[str, str, str]:
    found = next(c for c in made.conditions if c.type == kind)
    return found.status.value, found.reason, found.last_transition_time


def trouble(reason: Reason) -> View:
    return replace(GOOD, observation=Observation(0.0, trouble=Trouble(reason, "because")))


def test_transition_times_move_only_when_the_status_flips() -> None:
    first = made(GOOD, now="T1")
    same = made(replace(GOOD, workers=Workers(2, 2, 2)), first, now="T2")
    assert condition(same, "WorkersAvailable") == ("True", "WorkersReady", "T1")
    flipped = made(trouble(Reason.TOPIC_MISSING), same, now="T3")
    assert condition(flipped, "TopicAvailable") == ("False", "TopicMissing", "T3")
    assert condition(flipped, "Ready") == ("False", "TopicMissing", "T3")


def test_a_cluster_that_is_away_leaves_the_topic_unknown() -> None:
    seen = made(trouble(Reason.KAFKA_UNREACHABLE))
    assert condition(seen, "TopicAvailable")[:2] == ("Unknown", "KafkaUnreachable")
    assert condition(seen, "Ready")[:2] == ("Unknown", "KafkaUnreachable")
    assert seen.lag is None


def test_a_missing_topic_of_the_output_leaves_the_lag_known() -> None:
    missing = Trouble(Reason.TOPIC_MISSING, "topic 'review' does not exist on kafka:9092")
    seen = made(replace(GOOD, observation=Observation(0.0, lag=7, partitions=3, output=missing)))
    assert condition(seen, "TopicAvailable")[:2] == ("False", "TopicMissing")
    assert condition(seen, "Ready")[:2] == ("False", "TopicMissing")
    message = next(c.message for c in seen.conditions if c.type == "TopicAvailable")
    assert message == "results cannot be written: topic 'review' does not exist on kafka:9092"
    assert seen.lag == 7


@pytest.mark.parametrize(("number", "says"), [(1, "1 partition"), (2, "2 partitions")])
def test_a_topic_s_partitions_are_counted_in_words(number: int, says: str) -> None:
    idle = Observation(0.0, lag=0, partitions=number)
    limited = Decision(1, Reason.PARTITION_LIMIT, limited=Reason.PARTITION_LIMIT, partitions=number)
    seen = made(replace(GOOD, observation=idle, decision=limited))
    messages = {c.type: c.message for c in seen.conditions}
    assert messages["TopicAvailable"] == says
    assert messages["ScalingLimited"] == f"more workers than {says} are of no use"


def test_numbers_are_rounded_to_what_they_can_tell() -> None:
    assert made(GOOD).arrival_rate == 0.123


def test_the_age_of_the_backlog_comes_from_the_workers() -> None:
    busy = Observation(0.0, lag=7, partitions=3, summary=Summary(1, oldest_timestamp_ms=4000))
    assert made(replace(GOOD, observation=busy)).lag_seconds == 6.0
    assert made(GOOD).lag_seconds == 0.0


def test_the_last_measurement_outlives_the_workers() -> None:
    old = FlowBindingStatus(seconds_per_message=0.5)
    assert made(GOOD, old).seconds_per_message == 0.5


def test_a_patch_has_only_what_differs_and_removes_what_is_gone() -> None:
    first = made(GOOD)
    raw = first.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert status.patch(raw, first) == {}
    changes = status.patch(raw, made(trouble(Reason.KAFKA_UNREACHABLE), first))
    assert changes["lag"] is None
    assert "selector" not in changes


@pytest.mark.parametrize(
    ("old", "new", "elapsed", "worth"),
    [
        (None, 5, 0, True),
        (0, None, 0, True),
        (0, 5, 9, False),
        (0, 5, 10, True),
        (5, 0, 9, False),
        (5, 0, 10, True),
        (100, 150, 9, False),
        (100, 150, 10, True),
        (100, 105, 10, False),
        (100, 105, 31, True),
        (100, 100, 999, False),
    ],
)
def test_when_a_lag_is_worth_a_write(
    old: int | None, new: int | None, elapsed: float, worth: bool
) -> None:
    assert status.lag_moved(old, new, elapsed) is worth


def test_any_change_of_meaning_is_worth_a_write() -> None:
    assert status.worth_writing({"desiredReplicas": 3}, {}, 0)
    assert not status.worth_writing({"arrivalRate": 3.0}, {}, 0)
    assert status.worth_writing({"arrivalRate": 3.0}, {}, 31)
    assert not status.worth_writing({"reason": "Backlog"}, {}, 9)
    assert status.worth_writing({"reason": "Backlog", "conditions": []}, {}, 0)


def reasons(old: FlowBindingStatus, new: FlowBindingStatus) -> list[tuple[str, str]]:
    return [(item.type, item.reason) for item in happenings(old, new)]


def test_one_event_for_each_transition() -> None:
    good = made(GOOD)
    bad = made(trouble(Reason.TOPIC_MISSING), good)
    away = made(trouble(Reason.KAFKA_UNREACHABLE), bad)
    assert reasons(FlowBindingStatus(), good) == [("Normal", "Ready")]
    assert reasons(good, good) == []
    assert reasons(good, bad) == [("Warning", "TopicMissing")]
    assert reasons(bad, away) == [("Warning", "KafkaUnreachable")]
    assert reasons(away, good) == [("Normal", "Ready")]


def test_nothing_is_said_before_anything_is_known() -> None:
    unasked = made(replace(GOOD, observation=None))
    assert reasons(FlowBindingStatus(), unasked) == []


def test_scaling_is_an_event() -> None:
    up = made(replace(GOOD, decision=Decision(3, Reason.BACKLOG, lag=99)), made(GOOD))
    assert reasons(made(GOOD), up) == [("Normal", "Scaled")]


def pod(**container: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [container]}}


def deployment(replicas: int, ready: int = 0) -> dict[str, Any]:
    return {
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("state", "last", "reason"),
    [
        ({"waiting": {"reason": "ContainerCreating"}}, {}, None),
        ({"waiting": {"reason": "ErrImageNeverPull"}}, {}, Reason.IMAGE_UNAVAILABLE),
        (
            {"waiting": {"reason": "CrashLoopBackOff"}},
            {"terminated": {"exitCode": 2, "message": "spec.flow.url: wrong"}},
            Reason.WORKERS_CRASHING,
        ),
        ({"waiting": {"reason": "CreateContainerConfigError"}}, {}, Reason.WORKERS_UNAVAILABLE),
        ({"running": {}}, {}, None),
    ],
)
def test_what_pods_suffer_from(
    state: dict[str, Any], last: dict[str, Any], reason: Reason | None
) -> None:
    seen = observe(deployment(1), [pod(ready=False, state=state, lastState=last)])
    assert seen.trouble is reason
    if reason is Reason.WORKERS_CRASHING:
        assert seen.message == "exit code 2: spec.flow.url: wrong"


def test_a_pod_that_drains_is_no_trouble() -> None:
    leaving = pod(ready=False, state={"terminated": {"exitCode": 1}})
    leaving["metadata"]["deletionTimestamp"] = "now"
    assert observe(deployment(1), [leaving]).trouble is None


def test_some_ready_workers_make_it_degraded_and_not_unavailable() -> None:
    crashed = pod(ready=False, state={"terminated": {"exitCode": 1}})
    seen = made(replace(GOOD, workers=observe(deployment(2, ready=1), [crashed])))
    assert condition(seen, "WorkersAvailable")[:2] == ("True", "WorkersReady")
    assert condition(seen, "Degraded")[:2] == ("True", "WorkersCrashing")


def unready(age: float, *, unready_for: float | None = None, **status: Any) -> dict[str, Any]:
    """A Pod made `age` seconds before 10 000, as the kubelet reports it."""
    conditions = []
    if unready_for is not None:
        conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": at(unready_for)}]
    metadata = {"name": "p", "creationTimestamp": at(age)}
    return {"metadata": metadata, "status": {"conditions": conditions, **status}}


def at(seconds_ago: float) -> str:
    return datetime.fromtimestamp(10_000 - seconds_ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


CREATING = {"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
RUNNING = {"ready": False, "state": {"running": {}}}


@pytest.mark.parametrize(
    ("pods", "told"),
    [
        ([unready(241, containerStatuses=[RUNNING])], True),
        ([unready(241, containerStatuses=[CREATING])], True),
        ([unready(239, containerStatuses=[RUNNING])], False),
        # Ready for a day, and not since a minute: that may be a rebalance.
        ([unready(86_400, unready_for=60, containerStatuses=[RUNNING])], False),
        ([unready(86_400, unready_for=300, containerStatuses=[RUNNING])], True),
        ([unready(500, containerStatuses=[{"ready": True, "state": {"running": {}}}])], False),
        # Evicted, and kept by Kubernetes for people to look at.
        ([unready(500, phase="Failed")], False),
        ([pod(**RUNNING)], False),
    ],
)
def test_how_long_workers_may_take_to_start(pods: list[dict[str, Any]], told: bool) -> None:
    seen = observe(deployment(1), pods, now=10_000)
    assert (seen.trouble is Reason.WORKERS_UNAVAILABLE) is told
    assert ("4 min" in seen.message) is told


def test_what_else_a_pod_suffers_from_says_more_than_its_age() -> None:
    waiting = {"reason": "ErrImagePull", "message": "not found"}
    slow = unready(500, containerStatuses=[RUNNING])
    broken = unready(500, containerStatuses=[{"ready": False, "state": {"waiting": waiting}}])
    seen = observe(deployment(2), [slow, broken], now=10_000)
    assert seen.trouble is Reason.IMAGE_UNAVAILABLE


def test_messages_answered_without_the_flow_are_told_and_no_trouble() -> None:
    summary = Summary(1, 1, reason=Reason.ECHO_INSTEAD, message="lfx is not there")
    seen = made(replace(GOOD, observation=Observation(0.0, lag=0, partitions=3, summary=summary)))
    assert condition(seen, "FlowReachable")[:2] == ("True", "EchoInstead")
    assert condition(seen, "Degraded")[:2] == ("False", "Healthy")
    assert condition(seen, "Ready")[0] == "True"
