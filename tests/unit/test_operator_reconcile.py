"""Reconciling against an API server and a Kafka cluster in memory."""

from __future__ import annotations

import base64
import copy
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from flowbinding_api.offsets import Figures
from flowbinding_operator.kafka import ClusterError
from flowbinding_operator.kube import KubeError
from operator_fakes import FakeKube, Object, owners
from operator_harness import KEY, Operator


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    made = Operator()
    yield made
    await made.lag.close()


async def test_a_new_idle_binding_gets_its_children_and_no_pod(operator: Operator) -> None:
    operator.submit()
    await operator.reconcile()
    assert operator.kube.writes == [
        "apply Deployment flowbinding-operator",
        "apply ConfigMap flowbinding-operator",
    ]
    assert operator.kube.reads == []
    assert operator.deployment["spec"]["replicas"] == 0
    assert await operator.poll() == ["status"]
    assert len(operator.kube.events) == 1
    assert operator.condition("Ready") == ("True", "Ready")
    assert operator.condition("WorkersAvailable") == ("True", "ScaledToZero")
    assert operator.status["lag"] == 0


async def test_a_kafka_that_says_nothing_is_told_of_a_new_binding(operator: Operator) -> None:
    operator.submit()
    assert await operator.reconcile() == 5
    assert operator.status == {}
    operator.now += 5
    await operator.reconcile()
    assert operator.condition("Ready") == ("Unknown", "Reconciling")


async def test_the_replicas_go_over_to_the_autoscaler_before_the_operator_lets_go_of_them(
    operator: Operator,
) -> None:
    operator.submit()
    for _ in range(2):
        await operator.poll()
    operator.submit(worker={"image": "worker:2"})
    await operator.reconcile()
    assert operator.kube.writes[:3] == [
        "apply ConfigMap flowbinding-operator",
        "apply Deployment flowbinding-autoscaler",
        "apply Deployment flowbinding-operator",
    ]
    owned = owners(operator.deployment)
    assert owned["flowbinding-autoscaler"] == {"f:replicas"}
    assert "f:replicas" not in owned["flowbinding-operator"]
    assert operator.deployment["spec"]["replicas"] == 0


async def test_what_is_there_before_a_new_binding_is_looked_at_and_taken_over_if_it_is_its_own(
    operator: Operator,
) -> None:
    """As after an operator that was killed before it could tell anything."""
    operator.submit()
    await operator.reconcile()
    assert operator.status == {}
    operator.link.produce("orders", 6000)
    await operator.poll()
    operator.kube.objects["FlowBinding", "shop", "risk"].pop("status")
    await anew(operator)
    operator.deployments.drop("shop/risk-worker")
    assert await operator.reconcile() == 0
    await operator.reconcile()
    assert operator.kube.writes == []
    assert operator.deployment["spec"]["replicas"] == 10
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 10
    assert operator.condition("Ready")[0] == "True"


async def test_an_api_server_that_takes_no_version_of_what_it_creates_costs_only_time(
    operator: Operator,
) -> None:
    async def strict(manifest: Any, *, create: bool = False, **how: Any) -> Object:
        if create:
            raise KubeError("resourceVersion must not be set", status=409)
        return await FakeKube.apply(operator.kube, manifest, **how)

    operator.kube.apply = strict  # type: ignore[method-assign]
    operator.submit()
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 0
    assert operator.kube.find("ConfigMap", "risk-worker")


async def test_cut_short_at_any_write_no_pod_starts_and_the_next_reconcile_goes_on(
    operator: Operator,
) -> None:
    for survivors in range(2):
        await operator.lag.close()
        operator.kube.objects.clear()
        operator.restart()
        operator.submit()
        left = survivors

        async def failing(manifest: Any, **how: Any) -> Object:
            nonlocal left
            if left == 0:
                raise KubeError("gone away", status=0)
            left -= 1
            return await FakeKube.apply(operator.kube, manifest, **how)

        operator.kube.apply = failing  # type: ignore[method-assign]
        with pytest.raises(KubeError):
            await operator.reconcile()
        del operator.kube.apply
        await operator.lag.close()
        operator.restart()
        await operator.reconcile()
        assert operator.deployment["spec"]["replicas"] == 0
        assert operator.kube.find("ConfigMap", "risk-worker")


async def test_nothing_changed_means_no_writes(operator: Operator) -> None:
    operator.submit()
    for _ in range(3):
        await operator.poll()
    await operator.reconcile()
    assert operator.kube.writes == []
    for _ in range(400):
        assert await operator.poll() == []
    assert operator.link.requests.count("committed shop.risk") < 5


async def test_a_new_leader_writes_nothing_that_is_as_it_should_be(operator: Operator) -> None:
    operator.submit()
    for _ in range(3):
        await operator.poll()
    await anew(operator)
    await operator.reconcile()
    assert operator.kube.writes == []
    assert await operator.poll() == []
    await anew(operator)
    operator.submit(worker={"image": "worker:2"})
    await operator.reconcile()
    assert "apply Deployment flowbinding-operator" in operator.kube.writes


async def anew(operator: Operator) -> None:
    await operator.lag.close()
    operator.restart()


async def test_a_new_leader_repairs_whatever_was_changed_before(operator: Operator) -> None:
    operator.submit(worker={"nodeSelector": {"disk": "ssd"}})
    await operator.poll()
    good = operator.deployment
    paths = [("spec", *path) for path in leaves(good["spec"]) if path != ("replicas",)]
    paths += [("metadata", "labels", name) for name in good["metadata"]["labels"]]
    assert len(paths) > 50
    for path in paths:
        changed = copy.deepcopy(good)
        *way, last = path
        place: Any = changed
        for step in way:
            place = place[step]
        place[last] = "changed"
        operator.touch(changed)
        await anew(operator)
        await operator.reconcile()
        assert "apply Deployment flowbinding-operator" in operator.kube.writes, path
        assert operator.deployment["spec"] == good["spec"], path


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a document holds anything that is no mapping and no list."""
    if not isinstance(value, dict | list):
        yield path
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        yield from leaves(item, (*path, name))


async def test_a_burst_scales_in_one_step_and_drains_to_zero(operator: Operator) -> None:
    operator.submit(scaling={"maxReplicas": 24, "idleSeconds": 60})
    for _ in range(3):
        await operator.poll()
    operator.link.produce("orders", 4800)
    writes = await operator.poll()
    assert "scale 24" in writes
    assert operator.deployment["spec"]["replicas"] == 24
    assert operator.status["desiredReplicas"] == 24
    operator.pods(ready=24)
    await operator.reconcile()
    operator.link.commit_all("shop.risk", "orders", Figures(1, 10, seconds_per_message=0.5))
    await operator.poll()
    assert operator.status["lag"] == 0
    assert operator.status["secondsPerMessage"] == 0.5
    assert operator.condition("FlowReachable") == ("True", "FlowAnswered")
    for _ in range(31):
        await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 0
    told = [event["reason"] for event in operator.kube.events]
    assert told.count("Scaled") == 2


async def test_drift_is_repaired(operator: Operator) -> None:
    operator.submit()
    await operator.poll()
    await operator.reconcile()
    live = operator.deployment
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:1"
    operator.touch(live)
    await operator.reconcile()
    assert operator.kube.writes[-1] == "apply Deployment flowbinding-operator"
    containers = operator.deployment["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "worker:1"
    live = operator.deployment
    live["spec"]["replicas"] = 7
    operator.touch(live)
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 0


async def test_a_deleted_deployment_comes_back_as_large_as_it_was(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 500)
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 2
    del operator.kube.objects["Deployment", "shop", "risk-worker"]
    operator.deployments.drop("shop/risk-worker")
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 2


async def test_a_restart_with_kafka_down_keeps_what_runs(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 6000)
    await operator.poll()
    await operator.poll()
    before = operator.deployment["spec"]["replicas"]
    assert before == 10
    await operator.lag.close()
    operator.link.down = ClusterError("Kafka at kafka:9092 does not answer")
    operator.restart()
    for _ in range(5):
        await operator.poll(seconds=300)
    assert operator.deployment["spec"]["replicas"] == before
    assert operator.condition("TopicAvailable") == ("Unknown", "KafkaUnreachable")
    assert operator.condition("ScalingActive") == ("False", "LagUnknown")
    assert "lag" not in operator.status
    await operator.lag.close()


async def test_a_missing_secret_is_named_stops_scale_up_and_heals(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 500)
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 2
    flow = {"backend": "Echo", "apiKeySecretRef": {"name": "langflow", "key": "api-key"}}
    operator.submit(flow=flow)
    operator.link.produce("orders", 6000)
    assert await operator.reconcile() == 5
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 2
    assert operator.condition("Ready") == ("False", "SecretMissing")
    message = operator.status["conditions"][0]["message"]
    for part in ("shop/langflow", "api-key", "spec.flow.apiKeySecretRef"):
        assert part in message
    operator.kube.put(
        {
            "kind": "Secret",
            "metadata": {"namespace": "shop", "name": "langflow"},
            "data": {"api-key": base64.b64encode(b"s3cret").decode()},
        }
    )
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 10
    assert operator.condition("Ready")[1] != "SecretMissing"
    assert "s3cret" not in str(operator.kube.objects["Deployment", "shop", "risk-worker"])


async def test_a_flow_file_has_to_be_an_exported_flow(operator: Operator) -> None:
    file = {"configMapKeyRef": {"name": "flows", "key": "risk.json"}}
    operator.submit(flow={"backend": "Local", "file": file})
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "ConfigMapMissing")
    flows = {"kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "flows"}}
    operator.kube.put({**flows, "data": {"risk.json": '{"nodes": []}'}})
    operator.now += 61
    await operator.reconcile()
    assert operator.condition("FlowConfigured") == ("False", "FlowFileInvalid")
    operator.kube.put({**flows, "data": {"risk.json": '{"data": {"nodes": []}}'}})
    operator.now += 61
    await operator.reconcile()
    assert operator.condition("FlowConfigured") == ("True", "Configured")
    first = operator.deployment["spec"]["template"]
    operator.kube.put({**flows, "data": {"risk.json": '{"data": {"nodes": [1]}}'}})
    operator.now += 61
    await operator.reconcile()
    # Workers load a changed flow by themselves.
    assert operator.deployment["spec"]["template"] == first


async def test_an_invalid_spec_is_told_with_the_field_and_touches_nothing(
    operator: Operator,
) -> None:
    operator.submit()
    await operator.poll()
    operator.submit(flow={"backend": "Echo", "input": "{{ value", "timeoutSeconds": 1})
    await operator.reconcile()
    assert operator.kube.writes == ["status"]
    assert operator.condition("Ready") == ("False", "InvalidSpec")
    assert "spec.flow.input" in operator.status["conditions"][0]["message"]
    operator.submit()
    await operator.reconcile()
    assert operator.condition("Ready")[1] != "InvalidSpec"


async def test_a_deleted_binding_leaves_nothing_behind_here(operator: Operator) -> None:
    operator.submit()
    await operator.poll()
    await operator.poll()
    operator.bindings.drop(KEY)
    await operator.reconcile()
    assert operator.kube.writes == []
    assert operator.lag.pollers == {}
    assert not [
        sample
        for metric in operator.metrics.registry.collect()
        for sample in metric.samples
        if sample.labels.get("name") == "risk"
    ]


async def test_a_binding_without_a_flow_is_ready_and_skipped(operator: Operator) -> None:
    operator.submit(flow={"url": "http://langflow:7860"})
    operator.link.produce("orders", 50)
    await operator.poll()
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 0
    assert operator.condition("FlowConfigured") == ("False", "Skipped")
    assert operator.condition("Ready") == ("True", "Skipped")
    assert operator.status["lag"] == 50


async def test_pausing_stops_workers_and_still_watches_the_lag(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 500)
    await operator.poll()
    await operator.poll()
    template = operator.deployment["spec"]["template"]
    operator.submit(paused=True)
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 0
    assert operator.deployment["spec"]["template"] == template
    assert operator.condition("Paused") == ("True", "Paused")
    operator.link.produce("orders", 500)
    await operator.poll(seconds=10)
    assert operator.status["lag"] == 1000


async def test_an_object_of_somebody_else_is_left_alone(operator: Operator) -> None:
    theirs = {"kind": "Deployment", "metadata": {"namespace": "shop", "name": "risk-worker"}}
    operator.kube.put({**theirs, "spec": {"replicas": 3}})
    operator.submit()
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "ApplyRefused")
    assert operator.deployment["spec"] == {"replicas": 3}


async def test_what_the_api_server_refuses_is_told(operator: Operator) -> None:
    operator.submit()
    operator.kube.refuse = KubeError("spec.affinity: unknown field", status=422)
    assert await operator.reconcile() is not None
    assert operator.condition("Ready") == ("False", "ApplyRefused")
    operator.kube.refuse = None
    await operator.reconcile()
    await operator.poll()
    assert operator.condition("Ready") == ("True", "Ready")


async def test_trouble_of_pods_becomes_a_condition(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 10)
    await operator.poll()
    await operator.poll()
    operator.pods(ready=0)
    assert await operator.reconcile() == 5
    assert operator.condition("WorkersAvailable") == ("False", "WorkersStarting")
    assert operator.condition("Ready")[0] == "True"
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    container = {"ready": False, "image": "worker:1", "state": {"waiting": waiting}}
    operator.kube.pods = [{"metadata": {"name": "p"}, "status": {"containerStatuses": [container]}}]
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "ImageUnavailable")
    operator.pods(ready=1)
    assert await operator.reconcile() is None
    assert operator.condition("WorkersAvailable") == ("True", "WorkersReady")


async def test_what_a_worker_complains_of_becomes_a_condition_and_goes(operator: Operator) -> None:
    operator.submit()
    operator.link.produce("orders", 10)
    await operator.poll()
    await operator.poll()
    operator.pods(ready=1)
    await operator.reconcile()
    bad = Figures(1, 10, reason="FlowUnauthorized", message="401 from langflow")
    operator.link.commit_all("shop.risk", "orders", bad)
    await operator.poll()
    assert operator.condition("FlowReachable") == ("False", "FlowUnauthorized")
    assert operator.condition("Ready") == ("False", "FlowUnauthorized")
    operator.link.commit_all("shop.risk", "orders", Figures(1, 10, reason="OutputUnavailable"))
    await operator.poll()
    assert operator.condition("Degraded") == ("True", "OutputUnavailable")
    good = Figures(1, 10, seconds_per_message=1.0)
    operator.link.commit_all("shop.risk", "orders", good)
    await operator.poll()
    assert operator.condition("Ready") == ("True", "Ready")
    told = [e["reason"] for e in operator.kube.events if e["type"] == "Warning"]
    assert told == ["FlowUnauthorized", "OutputUnavailable"]


async def test_no_kafka_anywhere_is_told(operator: Operator) -> None:
    operator.submit(kafka={})
    await operator.reconcile()
    assert operator.condition("TopicAvailable") == ("False", "KafkaNotConfigured")


async def test_static_needs_no_lag(operator: Operator) -> None:
    operator.submit(scaling={"mode": "Static", "replicas": 3})
    await operator.reconcile()
    assert operator.deployment["spec"]["replicas"] == 3
