"""Whatever breaks and comes back: workers stay while nothing is known, and nothing flaps."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.binding import parse_binding
from flowbinding_operator.app import App
from flowbinding_operator.autoscaler import Autoscaler
from flowbinding_operator.duty import Duty
from flowbinding_operator.kafka import ClusterError
from flowbinding_operator.kube import KubeClient, KubeError
from flowbinding_operator.lag import Observation
from flowbinding_operator.leader import Leader
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.scaling import Decision, History
from flowbinding_operator.settings import Settings
from operator_fakes import FakeKube, Object, manifest
from operator_harness import KEY, Operator

DOWN = ClusterError("Kafka at kafka:9092 does not answer")
MOST = 10


@pytest.fixture
async def operator() -> Operator:
    return Operator()


@pytest.mark.parametrize("successor", [False, True])
async def test_a_binding_that_goes_while_its_status_is_written_stays_gone(
    operator: Operator, successor: bool
) -> None:
    operator.submit()
    operator.kube.on_change = lambda _: None
    write = operator.kube.patch_status
    after = manifest()
    after["metadata"] |= {"uid": "another", "resourceVersion": "999"}

    async def slow(namespace: str, name: str, status: Mapping[str, Any]) -> Any:
        answer = await write(namespace, name, status)
        # The watch brings the end of it, and who comes after it, before the answer is there.
        operator.bindings.drop(KEY)
        if successor:
            operator.bindings.put(KEY, after)
        return answer

    operator.kube.patch_status = slow  # type: ignore[method-assign]
    operator.now += 1
    await operator.reconcile()
    operator.now += 10
    await operator.reconcile()
    assert "status" in operator.kube.writes
    assert operator.bindings.get(KEY) == (after if successor else None)
    await operator.lag.close()


async def test_a_spec_that_changes_while_a_status_is_written_is_looked_at_at_once(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.submit()
    await operator.poll()
    await operator.poll()
    write = operator.kube.patch_status

    async def late(namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        changed = copy.deepcopy(operator.kube.find("FlowBinding", "risk"))
        changed["spec"]["paused"] = False
        changed["metadata"]["generation"] += 1
        operator.kube.put(changed)
        return await write(namespace, name, status)

    operator.submit(paused=True)
    operator.kube.on_change = lambda _: None
    monkeypatch.setattr(operator.kube, "patch_status", late)
    # What the write gave is newer than what the watch is about to bring, which is no news then.
    assert await operator.reconcile() == 0
    monkeypatch.undo()
    await operator.reconcile()
    assert operator.condition("Paused")[0] == "False"
    await operator.lag.close()


async def test_kafka_away_for_five_minutes_changes_nothing_and_what_follows_is_one_step(
    operator: Operator,
) -> None:
    operator.submit()
    operator.link.produce("orders", 6000)
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == MOST
    operator.pods(MOST)
    operator.link.down = DOWN
    steps = []
    for _ in range(30):
        steps += [w for w in await operator.poll(seconds=10) if w.startswith("scale")]
    assert steps == []
    assert operator.condition("ScalingActive") == ("False", "LagUnknown")
    # Workers could reach Kafka all the while, and are done. That is no reason for haste.
    operator.link.down = None
    operator.link.commit_all("shop.risk", "orders")
    for _ in range(25):
        steps += [w for w in await operator.poll(seconds=10) if w.startswith("scale")]
        assert operator.condition("ScalingActive") == ("True", "LagKnown")
    assert operator.deployment["spec"]["replicas"] > 0
    for _ in range(10):
        steps += [w for w in await operator.poll(seconds=10) if w.startswith("scale")]
    assert steps[-1] == "scale 0"
    wanted = [int(step.split()[1]) for step in steps]
    assert wanted == sorted(wanted, reverse=True)
    await operator.lag.close()


EVENTS = st.sampled_from(
    ["poll", "poll", "poll", "long", "restart", "kafka down", "kafka up", "api down", "api up"]
)


@settings(max_examples=12, deadline=None)
@given(st.lists(EVENTS, max_size=15))
def test_a_constant_backlog_is_scaled_for_once_whatever_happens_meanwhile(
    events: list[str],
) -> None:
    async def scenario() -> None:
        operator = Operator()
        operator.submit()
        operator.link.produce("orders", 6000)
        seen = [0]
        for event in [*events, "kafka up", "api up", *["poll"] * 3, "long", "poll"]:
            await happens(operator, event)
            deployment = operator.kube.objects.get(("Deployment", "shop", "risk-worker"))
            if deployment is not None:
                seen.append(deployment["spec"]["replicas"])
        # Up in one step, whenever that was possible, and never down.
        assert seen == sorted(seen)
        assert set(seen) == {0, MOST}
        await operator.lag.close()

    asyncio.run(scenario())


async def happens(operator: Operator, event: str) -> None:
    match event:
        case "restart":
            await operator.lag.close()
            operator.restart()
        case "kafka down" | "kafka up":
            operator.link.down = DOWN if event == "kafka down" else None
        case "api down" | "api up":
            operator.kube.refuse = KubeError("no answer") if event == "api down" else None
            operator.queued.add(KEY)
    with contextlib.suppress(KubeError):
        await operator.poll(seconds=60 if event == "long" else 2)


# Clocks


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=60),
    st.lists(st.floats(-1e9, 4e9), min_size=60, max_size=60),
)
def test_a_clock_on_the_wall_that_jumps_changes_no_decision(
    flow: list[tuple[int, int]], wall: list[float]
) -> None:
    """Come and done in two seconds each, and what the clock shows then."""
    steady = list(decisions(flow, [1e9 + 2 * n for n in range(len(flow))]))
    assert list(decisions(flow, wall)) == steady


def decisions(flow: list[tuple[int, int]], wall: list[float]) -> Iterator[Decision]:
    binding = parse_binding(manifest())
    autoscaler = Autoscaler(lambda *_: None)
    track = autoscaler.track(binding.key, binding.spec, lambda: History(replicas=0))
    end = done = 0
    for number, ((came, worked), unix) in enumerate(zip(flow, wall, strict=False)):
        end += came
        done = min(end, done + worked)
        autoscaler.observe(
            binding.key,
            Observation(1000.0 + 2 * number, lag=end - done, end=end, partitions=12, unix=unix),
        )
        decision = track.decide()
        track.history.replicas = decision.replicas
        yield decision


RARE = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 50))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RARE, st.integers(0, 60)), max_size=80), st.integers(1, 40))
def test_what_is_decided_in_sleep_is_what_would_be_decided_awake(
    flow: list[tuple[int, int]], seconds: int
) -> None:
    binding = parse_binding(manifest(scaling={"idleSeconds": 60}))
    autoscaler = Autoscaler(lambda *_: None)
    track = autoscaler.track(binding.key, binding.spec, lambda: History(replicas=0))
    end = done = 0
    for number, (came, worked) in enumerate(flow):
        end += came
        done = min(end, done + worked)
        at = 1000.0 + seconds * number
        autoscaler.observe(
            binding.key, Observation(at, lag=end - done, end=end, partitions=12, unix=at)
        )
        assert track.decision == track.decide()
        track.history.replicas = track.decide().replicas


# One of many


async def test_one_binding_that_cannot_be_decided_on_stops_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App(Settings(), FakeKube())
    told: list[str] = []

    def observe(key: str, observation: Observation) -> None:
        told.append(key)
        if key == "shop/broken":
            raise ZeroDivisionError

    monkeypatch.setattr(app.autoscaler, "observe", observe)
    for key in ("shop/broken", "shop/risk", "shop/broken"):
        app._observed(key, Observation(1.0, lag=0, end=0, partitions=1))
    assert told == ["shop/broken", "shop/risk", "shop/broken"]


async def test_an_unknown_time_zone_is_a_condition_and_workers_stay(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 6000)
    await operator.poll()
    await operator.poll()
    schedule = {"timeZone": "Europe/New_Berlin", "start": "0 8 * * *", "end": "0 9 * * *"}
    operator.submit(scaling={"schedules": [{**schedule, "minReplicas": 2}]})
    assert [w for w in await operator.poll() if w.startswith("scale")] == []
    assert operator.condition("Ready") == ("False", "InvalidSpec")
    message = operator.status["conditions"][0]["message"]
    assert "spec.scaling.schedules[0].timeZone" in message
    assert "Europe/New_Berlin" in message
    assert operator.deployment["spec"]["replicas"] == MOST
    await operator.lag.close()


async def test_a_topic_created_anew_is_told_and_heals(operator: Operator) -> None:
    operator.submit()
    operator.link.topic("orders", 24, end=100)
    operator.link.commit_all("shop.risk", "orders")
    await operator.poll()
    operator.link.topic("orders", 24, end=5)
    for _ in range(8):
        await operator.poll()
    assert operator.condition("Degraded") == ("True", "OffsetOutOfRange")
    assert operator.status["lag"] == 24 * 5
    assert operator.deployment["spec"]["replicas"] > 0
    for _ in range(20):
        await operator.poll()
    assert operator.condition("Degraded") == ("False", "Healthy")
    reasons = [event["reason"] for event in operator.kube.events]
    assert reasons.count("OffsetOutOfRange") == 1
    await operator.lag.close()


# Leading


async def test_who_does_not_lead_writes_nothing() -> None:
    leads = False
    kube = KubeClient(configuration(), lambda: leads)
    async with kube:
        with pytest.raises(KubeError, match="another operator leads"):
            await kube.scale("shop", "risk-worker", 3)
        leads = True
        with pytest.raises(KubeError, match=r"127\.0\.0\.1"):
            await kube.scale("shop", "risk-worker", 3)


def configuration() -> Any:
    from kubernetes.aio import client

    # Nobody listens there.
    return client.Configuration(host="http://127.0.0.1:1")


async def test_a_standby_is_ready_and_knows_nothing_of_bindings() -> None:
    class Nobody:
        async def get(self, kind: str, namespace: str, name: str) -> Any:
            spec = {"holderIdentity": "other", "leaseDurationSeconds": 60, "renewTime": "t"}
            return {"metadata": {}, "spec": spec}

        async def create(self, _: object) -> Any: ...
        async def replace(self, _: object) -> Any: ...

    async def watch(_: App) -> None:
        raise AssertionError("only a leader watches")

    metrics = Metrics()
    leader = Leader(Nobody(), "system", "operator", "one", seconds=3, changed=metrics.leader.set)
    duty = Duty(Settings(), FakeKube(), metrics, watch, leader)
    assert duty.unready() == ["the Lease has not been read yet"]
    running = asyncio.create_task(duty.run())
    async with asyncio.timeout(5):
        while duty.unready():  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert duty.problems() == []
    assert metrics.registry.get_sample_value("flowbinding_operator_leader") == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_term_leaves_no_series_of_bindings_behind() -> None:
    metrics = Metrics()

    async def watch(app: App) -> None:
        app.metrics.observed("shop/risk", Observation(1.0, lag=3, by_topic={"orders": 3}), 1.0)
        assert "risk" in series(metrics)

    duty = Duty(Settings(), FakeKube(), metrics, watch, None)
    await duty.run()
    assert "risk" not in series(metrics)
    assert metrics.registry.get_sample_value("flowbinding_operator_leader") == 1


def series(metrics: Metrics) -> str:
    samples = (sample for metric in metrics.registry.collect() for sample in metric.samples)
    return str([sample.labels for sample in samples])
