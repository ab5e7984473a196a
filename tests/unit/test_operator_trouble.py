"""Reconciling while something is wrong: foreign, missing, forbidden, invalid, never ready."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowbinding_operator.app import CHECK_SECONDS, RESYNC_CHECKS
from flowbinding_operator.children import CONFIG_CHECK_SECONDS
from flowbinding_operator.kafka import ClusterError
from operator_fakes import Object
from operator_harness import KEY, Operator

FLOW = {"backend": "Echo", "apiKeySecretRef": {"name": "langflow", "key": "api-key"}}
LOCAL = {"backend": "Local", "file": {"configMapKeyRef": {"name": "flows", "key": "risk.json"}}}
INVALID = {"backend": "Echo", "input": "{{ value", "timeoutSeconds": 1}
SASL = {
    "mechanism": "PLAIN",
    "usernameSecretRef": {"name": "kafka", "key": "user"},
    "passwordSecretRef": {"name": "kafka", "key": "password"},
}


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    made = Operator()
    yield made
    await made.lag.close()


async def started(operator: Operator, lag: int = 500) -> None:
    """A binding whose two workers run, with `lag` messages to do."""
    operator.submit()
    operator.link.produce("orders", lag)
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 2


def foreign(replicas: int = 3) -> Object:
    """Somebody else's Deployment of the worker's name."""
    labels = {"flowbinding.io/binding": "risk"}
    metadata = {"namespace": "shop", "name": "risk-worker", "labels": labels}
    status = {"replicas": replicas, "readyReplicas": replicas}
    spec = {"replicas": replicas}
    return {"kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}


def secret(name: str = "langflow", **content: str) -> Object:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}
    return {"kind": "Secret", "metadata": {"namespace": "shop", "name": name}, "data": data}


def message(operator: Operator, kind: str = "Ready") -> str:
    found: str = next(c for c in operator.status["conditions"] if c["type"] == kind)["message"]
    return found


def sleepless(age: float) -> Object:
    """A Pod made `age` seconds ago, whose container runs and is not ready."""
    made = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    container = {"ready": False, "state": {"running": {}}}
    metadata = {"name": "p", "creationTimestamp": made}
    return {"metadata": metadata, "status": {"containerStatuses": [container]}}


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("flow", [{"backend": "Echo"}, FLOW])
async def test_a_foreign_deployment_is_never_written_to(
    operator: Operator, paused: bool, flow: dict[str, Any]
) -> None:
    operator.touch(foreign())
    operator.submit(paused=paused, flow=flow)
    await operator.reconcile()
    assert set(operator.kube.writes) <= {"status"}
    operator.link.produce("orders", 500)
    for _ in range(4):
        assert set(await operator.poll(seconds=6)) <= {"status"}
    assert operator.deployment["spec"] == {"replicas": 3}
    assert operator.condition("Ready") == ("False", "ApplyRefused")
    assert "does not belong to this FlowBinding" in message(operator)
    assert operator.status["replicas"] == 0


async def test_a_foreign_deployment_that_goes_makes_room(operator: Operator) -> None:
    operator.touch(foreign())
    operator.submit()
    assert await operator.reconcile() == 15
    del operator.kube.objects["Deployment", "shop", "risk-worker"]
    operator.deployments.drop("shop/risk-worker")
    await operator.reconcile()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 0
    assert operator.condition("Ready") == ("True", "Ready")


@pytest.mark.parametrize(("flow", "reason"), [(FLOW, "SecretMissing"), (LOCAL, "ConfigMapMissing")])
async def test_a_missing_flow_object_does_not_keep_a_latest_binding_from_its_start(
    operator: Operator, flow: dict[str, Any], reason: str
) -> None:
    operator.link.produce("orders", 10)
    operator.submit(flow=flow, source={"topic": "orders", "startFrom": "Latest"})
    await operator.reconcile()
    await operator.poll()
    assert len(operator.link.commits["shop.risk"]) == 24
    operator.link.produce("orders", 5)
    await operator.poll(seconds=31)
    assert operator.status["lag"] == 5
    assert operator.condition("Ready") == ("False", reason)


async def test_a_missing_kafka_secret_behind_a_missing_flow_secret_is_not_used(
    operator: Operator,
) -> None:
    kafka = {"bootstrapServers": "kafka:9092", "sasl": SASL}
    operator.submit(flow=FLOW, kafka=kafka)
    await operator.reconcile()
    assert operator.lag.pollers == {}
    operator.touch(secret(**{"api-key": "x"}))
    await operator.reconcile()
    assert operator.lag.pollers == {}
    assert operator.condition("Ready") == ("False", "SecretMissing")
    operator.touch(secret("kafka", user="u", password="p"))
    await operator.reconcile()
    assert len(operator.lag.pollers) == 1


async def test_workers_that_never_become_ready_are_told_after_a_while(operator: Operator) -> None:
    await started(operator)
    operator.pods(ready=0)
    operator.kube.pods = [sleepless(age=100)]
    await operator.reconcile()
    assert operator.condition("WorkersAvailable") == ("False", "WorkersStarting")
    assert operator.condition("Ready")[0] == "True"
    operator.kube.pods = [sleepless(age=300)]
    assert await operator.reconcile() == 5
    assert operator.condition("WorkersAvailable") == ("False", "WorkersUnavailable")
    assert operator.condition("Ready") == ("False", "WorkersUnavailable")
    assert "4 min" in message(operator)
    await operator.reconcile()
    assert operator.kube.writes == []


async def test_workers_that_do_not_start_stay_told_while_more_are_asked_for(
    operator: Operator,
) -> None:
    await started(operator)
    operator.pods(ready=0)
    operator.kube.pods = [sleepless(age=300)]
    await operator.reconcile()
    operator.submit(scaling={"minReplicas": 4})
    await operator.reconcile()
    assert "scale 4" in operator.kube.writes
    assert operator.condition("Ready") == ("False", "WorkersUnavailable")


@pytest.mark.parametrize("missing", [False, True])
async def test_secrets_that_may_not_be_read_are_a_condition(
    operator: Operator, missing: bool
) -> None:
    await started(operator)
    if not missing:
        operator.touch(secret(**{"api-key": "x"}))
    operator.kube.forbidden = {"Secret"}
    operator.submit(flow=FLOW)
    assert await operator.reconcile() == 5
    assert operator.kube.writes == ["status"]
    assert operator.condition("Ready") == ("False", "KubernetesForbidden")
    for part in ("shop/langflow", "secrets is forbidden", "spec.flow.apiKeySecretRef"):
        assert part in message(operator)
    assert operator.deployment["spec"]["replicas"] == 2
    operator.kube.forbidden.clear()
    await operator.reconcile()
    told = operator.condition("Ready")
    assert told == ("False", "SecretMissing") if missing else told[0] == "True"


async def test_a_deployment_that_may_not_be_read_is_a_condition(operator: Operator) -> None:
    await started(operator)
    del operator.kube.objects["Deployment", "shop", "risk-worker"]
    operator.deployments.drop("shop/risk-worker")
    operator.kube.forbidden = {"Deployment"}
    assert await operator.reconcile() == 15
    assert operator.kube.writes == ["status"]
    assert operator.condition("Ready") == ("False", "ApplyRefused")
    assert "shop/risk-worker" in message(operator)
    assert "deployments is forbidden" in message(operator)
    operator.kube.forbidden.clear()
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 2


async def test_pods_that_may_not_be_read_stop_nothing(operator: Operator) -> None:
    await started(operator)
    operator.pods(ready=0)
    operator.kube.forbidden = {"Pod"}
    assert await operator.reconcile() == 5
    assert operator.condition("WorkersAvailable") == ("False", "WorkersStarting")


async def test_a_deleted_config_map_comes_back_while_workers_wait_for_it(
    operator: Operator,
) -> None:
    await started(operator)
    operator.pods(ready=2)
    await operator.reconcile()
    del operator.kube.objects["ConfigMap", "shop", "risk-worker"]
    operator.now += 5
    await operator.reconcile()
    assert operator.kube.writes == []
    operator.pods(ready=1)
    operator.now += 5
    await operator.reconcile()
    assert "apply ConfigMap flowbinding-operator" in operator.kube.writes


def test_every_resync_checks_the_config_map() -> None:
    assert CONFIG_CHECK_SECONDS < CHECK_SECONDS * RESYNC_CHECKS


async def test_an_invalid_spec_can_be_paused(operator: Operator) -> None:
    await started(operator)
    operator.pods(ready=2)
    await operator.reconcile()
    operator.submit(flow=INVALID, paused=True)
    await operator.reconcile()
    assert operator.kube.writes == ["scale 0", "status"]
    assert operator.condition("Ready") == ("False", "InvalidSpec")
    assert operator.condition("Paused") == ("True", "Paused")
    assert operator.status["desiredReplicas"] == 0
    operator.pods(ready=0)
    await operator.reconcile()
    assert (operator.status["replicas"], operator.status["readyReplicas"]) == (0, 0)
    assert operator.condition("WorkersAvailable") == ("True", "ScaledToZero")
    await operator.reconcile()
    assert operator.kube.writes == []


async def test_only_true_pauses_an_invalid_spec(operator: Operator) -> None:
    await started(operator)
    operator.submit(flow=INVALID, paused="true")
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 2


async def test_an_invalid_spec_pauses_no_foreign_deployment(operator: Operator) -> None:
    operator.touch(foreign())
    operator.submit(flow=INVALID, paused=True)
    await operator.reconcile()
    assert operator.kube.writes == ["status"]
    assert operator.deployment["spec"] == {"replicas": 3}


async def test_an_invalid_spec_is_not_watched_and_comes_back(operator: Operator) -> None:
    await started(operator)
    operator.submit(flow=INVALID)
    await operator.reconcile()
    assert operator.condition("ScalingActive") == ("False", "InvalidSpec")
    assert not {"lag", "demandRate"} & operator.status.keys()
    assert operator.lag.pollers == {}
    operator.pods(ready=1)
    await operator.reconcile()
    assert (operator.status["replicas"], operator.status["readyReplicas"]) == (2, 1)
    operator.link.produce("orders", 6000)
    operator.queued.clear()
    for _ in range(3):
        assert await operator.poll(seconds=6) == []
    assert KEY not in operator.queued
    operator.submit()
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 10
    assert operator.condition("ScalingActive") == ("True", "LagKnown")
    assert operator.condition("Ready")[0] == "True"


async def test_an_invalid_spec_is_told_although_the_deployment_may_not_be_read(
    operator: Operator,
) -> None:
    operator.kube.forbidden = {"Deployment"}
    operator.submit(flow=INVALID, paused=True)
    assert await operator.reconcile() == 15
    assert operator.condition("Ready") == ("False", "InvalidSpec")
    assert "deployments is forbidden" in message(operator)


async def test_an_answer_that_kafka_misses_is_no_news_to_a_reconcile_either(
    operator: Operator,
) -> None:
    operator.submit(scaling={"maxReplicas": 2})
    operator.link.produce("orders", 6000)
    for _ in range(3):
        await operator.poll()
    assert operator.condition("ScalingLimited") == ("True", "MaxReplicas")
    operator.pods(ready=2)
    await operator.reconcile()
    operator.link.down = ClusterError("not now")
    assert await operator.poll() == []
    await operator.reconcile()
    assert operator.kube.writes == []
    # What the user wants is another matter.
    operator.submit(paused=True)
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 0
    operator.submit()
    await operator.reconcile()
    assert operator.condition("ScalingActive") == ("False", "LagUnknown")


async def test_a_lag_that_cannot_be_watched_any_more_decides_nothing(operator: Operator) -> None:
    operator.touch(secret("kafka", user="u", password="p"))
    kafka = {"bootstrapServers": "kafka:9092", "sasl": SASL}
    operator.submit(kafka=kafka)
    operator.link.produce("orders", 500)
    await operator.poll()
    await operator.poll()
    operator.pods(ready=2)
    operator.link.commit_all("shop.risk", "orders")
    for _ in range(10):
        await operator.poll()
    assert (operator.status["lag"], operator.deployment["spec"]["replicas"]) == (0, 2)
    broken = secret("kafka", user="u", password="")
    broken["data"]["password"] = base64.b64encode(b"\xff").decode()
    operator.touch(broken)
    operator.now += 61
    # By what was seen last, it would be time to sleep.
    operator.submit(kafka=kafka, scaling={"idleSeconds": 5})
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 2
    assert operator.condition("Ready") == ("False", "KafkaNotConfigured")
    assert operator.condition("ScalingActive") == ("False", "LagUnknown")
    assert "lag" not in operator.status
