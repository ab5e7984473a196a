"""`flowbinding explain`: why so many workers, in words that hold the binding's own figures."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_fakes import FakeKube, live, run
from flowbinding_api.reasons import Reason
from flowbinding_api.status import Hold
from flowbinding_cli import options
from flowbinding_cli.because import SENTENCES, Facts
from flowbinding_cli.explanation import Explanation, explain

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SOON = "2026-03-01T12:00:47Z"
OLD = "2026-01-01T00:00:00Z"

MADE = {
    "asked": "Backlog",
    "neededReplicas": 3,
    "wantedReplicas": 3,
    "minReplicas": 0,
    "maxReplicas": 10,
    "activePartitions": 12,
    "fastArrivalRate": 22.0,
    "slowArrivalRate": 18.2,
    "slotsPerReplica": 10.0,
}
STATUS = {
    "replicas": 3,
    "readyReplicas": 3,
    "desiredReplicas": 3,
    "recommendedReplicas": 3,
    "partitions": 12,
    "lag": 412,
    "lagSeconds": 12.3,
    "arrivalRate": 18.2,
    "demandRate": 19.2,
    "ratePerReplica": 12.5,
    "secondsPerMessage": 0.8,
    "reason": "Backlog",
}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": OLD,
    }


def told(
    made: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **status: Any
) -> Explanation:
    scaling = {**MADE, **made} if made is not None else MADE
    item = {**live(**(spec or {})), "status": {**STATUS, "scaling": scaling, **status}}
    return explain(Facts.of(item, NOW))


def text_of(found: Explanation) -> str:
    lines = [found.why, *found.inputs.values(), *found.formula.values()]
    return "\n".join([*lines, *found.limits, *found.changes])


def test_the_formula_holds_the_figures() -> None:
    found = told()
    assert found.why == (
        "A backlog of 412 messages, to be done within about 30 s (targetLagSeconds) while 18.2/s"
        " arrive, needs 3 workers."
    )
    assert found.formula == {
        "One worker": "10 slots ÷ 0.8 s = 12.5/s",
        "To be done": "19.2/s: the backlog within targetLagSeconds (30 s), with what arrives",
        "Needed": "19.2/s ÷ 12.5/s = 1.54, so 2; 3, so that no worker has more than 4 of the 12"
        " partitions (Balanced)",
        "Bounds": "0 to 10, and 12 partitions: 3 wanted",
        "Damping": "none: 3",
    }
    assert "It rises when more than 37.5/s have to be done (now 19.2/s), up to 10." in found.changes
    assert found.limits == []


def test_what_holds_it_is_told_with_the_time_left() -> None:
    hold = {"wantedReplicas": 2, "hold": "StabilizationWindow", "holdUntil": SOON}
    found = told(hold, reason="Stabilizing")
    assert "2 workers would do now; it stays at 3" in found.why
    assert found.formula["Damping"] == "3 (StabilizationWindow, 47 s to go)"
    assert any("stabilizationWindowSeconds (120 s), 47 s to go" in line for line in found.limits)
    assert any(line.startswith("It falls after") for line in found.changes)
    late = told({**hold, "holdUntil": OLD}, reason="Stabilizing")
    assert "about to end" in late.why


def test_policies_are_named() -> None:
    policies = [{"type": "Pods", "value": 4, "periodSeconds": 60}]
    spec = {"scaling": {"behavior": {"scaleUp": {"policies": policies}}}}
    hold = {"neededReplicas": 9, "wantedReplicas": 9, "hold": "ScalingPolicy", "holdUntil": SOON}
    found = told(hold, spec, reason="ScalingPolicy")
    assert "9 workers are wanted, 3 for now" in found.why
    assert "4 Pods in 60 s, 47 s to go" in found.why


def test_a_rise_that_waits_is_not_told_as_enough_workers() -> None:
    rates: dict[str, Any] = {"ratePerReplica": 12.5, "arrivalRate": 39.0, "demandRate": 37.5}
    found = told({"asked": "Arrivals"}, reason="Arrivals", **rates)
    assert found.why == (
        "39/s arrive, more than 3 workers do (37.5/s), but what waits will still be in time in a"
        " minute (targetLagSeconds: 30 s)."
    )
    assert found.formula["To be done"] == "37.5/s: what the workers do; more arrives, and may wait"
    assert (
        "It rises when what waits would not be in time in a minute, or a partition has messages"
        " older than 37.5 s (1.25 times targetLagSeconds)."
    ) in found.changes
    assert not any("have to be done" in change for change in found.changes)


def test_without_headroom_arrivals_are_what_there_is_to_be_done() -> None:
    rates: dict[str, Any] = {"arrivalRate": 19.2, "demandRate": 19.2}
    found = told({"asked": "Arrivals"}, reason="Arrivals", **rates)
    assert found.why == (
        "An arrival rate of 19.2/s, with no headroom (targetUtilization is 100 %), needs 3 workers."
    )
    assert found.formula["To be done"] == "19.2/s: what arrives (targetUtilization is 100 %)"
    assert (
        "It rises when more than 37.5/s arrive and what waits would not be in time (now 19.2/s), up"
        " to 10."
    ) in found.changes


def test_headroom_is_told_with_its_percentage() -> None:
    rates: dict[str, Any] = {"arrivalRate": 18.2, "demandRate": 21.9}
    spec = {"scaling": {"targetUtilization": 80}}
    found = told({"asked": "Arrivals"}, spec, reason="Arrivals", **rates)
    assert found.why == (
        "An arrival rate of 18.2/s, to keep workers 80 % busy at most (targetUtilization), needs 3"
        " workers."
    )
    assert found.formula["To be done"] == (
        "21.9/s: arrivals ÷ targetUtilization (80 %, and 3 more while nothing is behind)"
    )
    assert "It rises when more than 37.5/s have to be done (now 21.9/s), up to 10." in found.changes


def test_a_backlog_that_is_done_soon_is_not_put_down_to_its_partitions_alone() -> None:
    found = told(lag=3_000, demandRate=37.5)
    assert found.formula["To be done"] == (
        "37.5/s: the backlog within targetLagSeconds (30 s), with what arrives; the rest is done"
        " before more workers would begin, or cannot be done at once of these partitions"
    )


@pytest.mark.parametrize(
    ("utilization", "words"),
    [
        (100, "fewer are not likely to keep up with what arrives, or did not the last time"),
        (80, "with fewer, the workers might be busier than targetUtilization (80 %) allows"),
    ],
)
def test_what_keeps_workers_depends_on_the_headroom(utilization: int, words: str) -> None:
    hold = {"wantedReplicas": 2, "hold": "Margin"}
    spec = {"scaling": {"targetUtilization": utilization}}
    found = told(hold, spec, reason="Stabilizing")
    assert f"2 workers would do now; it stays at 3: {words}" in found.why
    assert any(line.startswith(f"Margin: {words}") for line in found.limits)


def test_no_backlog_is_not_told_as_one() -> None:
    quiet: dict[str, Any] = {"lag": 0, "desiredReplicas": 1, "recommendedReplicas": 1}
    quiet |= {"arrivalRate": 0.0, "demandRate": 0.0}
    found = told({"neededReplicas": 1, "wantedReplicas": 1}, **quiet)
    assert found.why == "With nothing waiting, a binding that does not sleep needs 1 worker."
    assert found.formula["To be done"] == "0/s: nothing waits"


@pytest.mark.parametrize(
    ("active", "words"), [(1, "only 1 partition has messages"), (2, "only 2 partitions have")]
)
def test_no_more_workers_than_partitions_with_messages(active: int, words: str) -> None:
    found = told({"activePartitions": active, "neededReplicas": active}, demandRate=37.0)
    assert f"so 3; {active}, because {words}" in found.formula["Needed"]


def test_lag_threshold_has_keda_s_formula() -> None:
    found = told({"neededReplicas": 9}, {"scaling": {"lagThreshold": 50}})
    assert found.formula["Needed"] == "412 ÷ 50 (lagThreshold) = 8.24, so 9"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("MaxReplicas", "maxReplicas allows no more than 10"),
        ("PartitionLimit", "12 can share 12 partitions"),
        ("HotPartition", "partition in/3 gets more"),
        ("PartitionStalled", "partition in/3 gets more"),
        ("BackendSaturated", "partition in/3 gets more"),
        ("InFlightLimit", "no more than 7 runs"),
        ("RateLimit", "no more than 60 runs"),
        ("Schedule", "allows no more than 10"),
    ],
)
def test_a_limit_is_told_with_its_figure_and_the_way_out(reason: str, words: str) -> None:
    spec = {"concurrency": {"maxInFlight": 7}, "rateLimit": {"requestsPerMinute": 60}}
    said = condition("ScalingLimited", "True", reason, "partition in/3 gets more than it can do")
    made = {"neededReplicas": 30, "limitedBy": reason}
    found = told(made, spec, reason=reason, conditions=[said])
    assert "needs 30 workers, but" in found.why
    assert words in found.why
    assert found.limits[0].startswith(f"{reason}: ")
    assert words in found.limits[0]
    assert len(found.changes) > 1


def test_a_sleeping_binding_says_what_wakes_it() -> None:
    quiet: dict[str, Any] = {"asked": "Idle", "neededReplicas": 0, "wantedReplicas": 0}
    zero: dict[str, Any] = {"desiredReplicas": 0, "recommendedReplicas": 0, "lag": 0}
    found = told(quiet, reason="Idle", **zero)
    assert "300 s (idleSeconds)" in found.why
    assert found.changes == ["It wakes up with any message, at the next look at Kafka."]
    few = {**quiet, "asked": "NotActivated", "hold": "ActivationAge", "holdUntil": SOON}
    some = {**zero, "lag": 3}
    spec = {"scaling": {"activation": {"lag": 10, "maxAgeSeconds": 60}}}
    found = told(few, spec, reason="NotActivated", **some)
    assert "more than 10 (activation.lag)" in found.why
    assert "(60 s), 47 s to go" in found.why


def test_an_awake_binding_says_when_it_sleeps() -> None:
    quiet = {"hold": "IdleSeconds", "holdUntil": SOON, "wantedReplicas": 1, "neededReplicas": 1}
    found = told(quiet, lag=0, desiredReplicas=1, recommendedReplicas=1)
    assert any("goes to 0 after 300 s without a message (47 s to go)" in c for c in found.changes)


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"scaling": {"mode": "Static"}}, "Static", "mode is Static"),
        ({"scaling": {"mode": "External"}}, "External", "mode is External"),
        ({"scaling": {"dryRun": True}}, "DryRun", "dryRun is true"),
    ],
)
def test_what_mode_lag_would_do_is_told_where_it_does_not_decide(
    spec: dict[str, Any], reason: str, words: str
) -> None:
    found = told({"wantedReplicas": 5}, spec, reason=reason, recommendedReplicas=5)
    assert words in found.why
    assert "Mode Lag would run 5 workers." in found.why
    assert any("The recommendation" in change for change in found.changes)


def test_an_unknown_lag_says_why() -> None:
    said = condition("ScalingActive", "False", "LagUnknown", "replicas stay: kafka:9092 is away")
    item = {**live(), "status": {"reason": "LagUnknown", "conditions": [said]}}
    found = explain(Facts.of(item, NOW))
    assert "kafka:9092 is away" in found.why
    assert found.inputs["Lag"] == "not known"
    assert found.formula == {}


def test_figures_are_for_people() -> None:
    found = told({"neededReplicas": 1}, ratePerReplica=14_400.0, secondsPerMessage=0.000695)
    assert found.inputs["A run takes"] == "0.695 ms, as workers measured it"
    assert found.formula["One worker"] == "10 slots ÷ 0.695 ms = 14,388/s"
    small = told(ratePerReplica=14_400.0, demandRate=0.034)
    assert "0.034/s ÷ 14,400/s = less than 0.001, so 1" in small.formula["Needed"]


def test_a_need_that_a_limit_has_made_is_no_need() -> None:
    made = {"neededReplicas": 3, "limitedBy": "BackendSaturated"}
    found = told(made, reason="BackendSaturated", demandRate=99.0)
    assert "needs more than 3 workers, but" in found.why
    assert not any("It rises" in change for change in found.changes)


def test_trouble_is_told_once_with_what_to_do() -> None:
    said = [
        condition("ScalingActive", "False", "LagUnknown", "replicas stay as they are: no broker"),
        condition("Ready", "Unknown", "KafkaUnreachable", "no broker"),
    ]
    item = {**live(), "status": {"reason": "LagUnknown", "conditions": said}}
    found = explain(Facts.of(item, NOW))
    assert found.why == "The lag is not known, so the number stays as it is: no broker."
    assert found.limits == ["KafkaUnreachable: no broker."]
    (change,) = found.changes
    assert change.startswith("KafkaUnreachable: Check bootstrapServers")
    skipped = {**live(), "status": {"reason": "Skipped"}}
    assert explain(Facts.of(skipped, NOW)).changes == ["Set spec.flow.id."]


def test_bindings_without_workers() -> None:
    paused = {**live(paused=True), "status": {"reason": "Paused"}}
    assert explain(Facts.of(paused, NOW)).changes == ["Set spec.paused to false."]
    assert "not looked" in explain(Facts.of(live(), NOW)).why
    cron: dict[str, Any] = {"source": {"topic": None, "schedule": {"cron": "0 2 * * *"}}}
    found = explain(Facts.of(live(**cron), NOW))
    assert "0 2 * * * (Etc/UTC)" in found.why
    wrong = live(flow={"backend": "Nothing"})
    assert "spec.flow.backend" in explain(Facts.of(wrong, NOW)).why


def test_a_newer_operator_s_words_are_passed_on() -> None:
    assert "Whatever" in told(reason="Whatever").why
    assert "412 messages" in told({"hold": "NotYetInvented"}).why


numbers = st.none() | st.integers(0, 10**9)
rates = st.none() | st.just(0.0) | st.floats(1e-3, 1e6)


@given(
    reason=st.sampled_from(sorted(SENTENCES)),
    limited=st.none() | st.sampled_from(sorted(Reason)),
    hold=st.none() | st.sampled_from(sorted(Hold)),
    asked=st.sampled_from(["Backlog", "Arrivals", "Idle", "NotActivated"]),
    counts=st.tuples(*[numbers] * 8),
    figures=st.tuples(*[rates] * 5),
)
def test_whatever_the_operator_says_becomes_words(
    reason: Reason,
    limited: Reason | None,
    hold: Hold | None,
    asked: str,
    counts: tuple[int | None, ...],
    figures: tuple[float | None, ...],
) -> None:
    needed, wanted, low, high, partitions, lag, desired, recommended = counts
    found = told(
        {
            "asked": asked,
            "limitedBy": limited,
            "hold": hold,
            "holdUntil": None if hold is None else SOON,
            "neededReplicas": needed,
            "wantedReplicas": wanted,
            "minReplicas": low,
            "maxReplicas": high,
            "fastArrivalRate": figures[0],
        },
        reason=reason,
        partitions=partitions,
        lag=lag,
        desiredReplicas=desired,
        recommendedReplicas=recommended,
        arrivalRate=figures[1],
        demandRate=figures[2],
        ratePerReplica=figures[3],
        secondsPerMessage=figures[4],
    )
    assert found.why.endswith(".")
    text = text_of(found)
    assert "None " not in text.replace("Alignment None", "")
    assert ".." not in text
    assert "Hold." not in text


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> FakeKube:
    fake = FakeKube()
    monkeypatch.setattr(options, "connect", lambda *_: fake)
    return fake


def test_the_command_writes_sections_and_json(kube: FakeKube) -> None:
    kube.live["team/example"] = {**live(), "status": {**STATUS, "scaling": MADE}}
    shown = run("explain", "example").stdout
    assert shown.startswith("team/example: 3 desired, 3 there, 3 ready (mode Lag), because of")
    titles = ("Measured", "How the number comes about", "What would change it")
    assert all(f"\n{title}\n" in shown for title in titles)
    found = json.loads(run("explain", "example", "-o", "json").stdout)
    assert (found["binding"], found["reason"]) == ("team/example", "Backlog")
    assert found["status"]["scaling"]["neededReplicas"] == 3
    missing = run("explain", "nobody")
    assert (missing.exit_code, missing.stderr) == (
        1,
        "error: FlowBinding team/nobody: not found\n",
    )
