"""A binding's life: asleep, scaled by lag, updated, repaired, deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

import kafkaio
from e2e.cluster import Namespace, eventually
from kafkaio import TopicFactory
from manifests import manifest
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)

QUICK = {
    "idleSeconds": 3,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 2}},
}


def echo(name: str, topic: str, **spec: Any) -> dict[str, Any]:
    return manifest(
        {"metadata": {"name": name}},
        **{"source": {"topic": topic}, "scaling": QUICK, **spec},
    )


async def test_workers_come_with_the_lag_and_go_with_it(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source, output = await new_topic(partitions=6), await new_topic()
    namespace.apply(
        echo("sleepy", source, output={"topic": output}, scaling={**QUICK, "maxReplicas": 2})
    )
    await namespace.has_condition("sleepy", "Ready", "True", "Ready")
    assert namespace.wanted("sleepy") == 0
    assert namespace.pods("sleepy") == []

    messages = [
        (f"k{n % 20}".encode(), json.dumps({"message": f"m{n}"}).encode()) for n in range(300)
    ]
    await kafkaio.produce(operator.bootstrap, source, messages)
    await eventually("workers run", lambda: namespace.status("sleepy").get("readyReplicas"))
    results = await kafkaio.read_until(operator.bootstrap, output, 300)
    assert {json.loads(record.value)["result"] for record in results} == {
        f"m{n}" for n in range(300)
    }
    await eventually("back at zero", lambda: namespace.wanted("sleepy") == 0)
    await eventually("no Pods", lambda: not namespace.pods("sleepy"))
    status = namespace.status("sleepy")
    assert status["lag"] == 0
    assert status["consumerGroup"] == f"{namespace.name}.sleepy"
    assert len(results) == 300


async def test_an_update_rolls_the_workers(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source = await new_topic()
    binding = echo("rolling", source, scaling={**QUICK, "minReplicas": 1})
    namespace.apply(binding)
    await namespace.has_condition("rolling", "WorkersAvailable", "True", "WorkersReady")
    (before,) = namespace.pods("rolling")

    binding["spec"]["flow"]["timeoutSeconds"] = 30
    namespace.apply(binding)

    def rolled() -> bool:
        pods = [pod["metadata"]["uid"] for pod in namespace.pods("rolling")]
        return len(pods) == 1 and pods != [before["metadata"]["uid"]]

    await eventually("another Pod", rolled, seconds=60)
    generation = namespace.get("fb", "rolling")["metadata"]["generation"]
    await eventually(
        "status of this generation",
        lambda: namespace.status("rolling").get("observedGeneration") == generation,
    )


async def test_scaling_settings_do_not_roll_the_workers(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source = await new_topic()
    binding = echo("steady", source, scaling={**QUICK, "minReplicas": 1})
    namespace.apply(binding)
    await namespace.has_condition("steady", "WorkersAvailable", "True", "WorkersReady")
    before = [pod["metadata"]["uid"] for pod in namespace.pods("steady")]
    binding["spec"]["scaling"]["minReplicas"] = 2
    namespace.apply(binding)
    await eventually("two Pods", lambda: namespace.status("steady").get("readyReplicas") == 2)
    assert set(before) <= {pod["metadata"]["uid"] for pod in namespace.pods("steady")}


async def test_drift_is_repaired(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    namespace.apply(echo("drifting", await new_topic()))
    await namespace.has_condition("drifting", "Ready", "True", "Ready")
    original = namespace.get("deploy", "drifting-worker")["spec"]["template"]

    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
    namespace.kubectl("patch", "deploy", "drifting-worker", "--patch", json.dumps(patch))
    await eventually(
        "the grace period is back",
        lambda: namespace.get("deploy", "drifting-worker")["spec"]["template"] == original,
    )
    namespace.kubectl("scale", "deploy", "drifting-worker", "--replicas=2")
    await eventually("the replicas are back", lambda: namespace.wanted("drifting") == 0)
    namespace.kubectl("delete", "deploy", "drifting-worker")
    await eventually("the Deployment is back", lambda: namespace.wanted("drifting") == 0)


async def test_deletion_leaves_nothing(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    namespace.apply(echo("brief", await new_topic(), scaling={**QUICK, "minReplicas": 1}))
    await namespace.has_condition("brief", "WorkersAvailable", "True", "WorkersReady")
    namespace.kubectl("delete", "fb", "brief", "--timeout=10s")

    def left() -> list[str]:
        kinds = "deployments,replicasets,pods,configmaps"
        names = [item["metadata"]["name"] for item in namespace.items(kinds)]
        return [name for name in names if name.startswith("brief")]

    await eventually("nothing is left", lambda: not left(), seconds=60)


async def test_pause_and_resume(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source = await new_topic()
    binding = echo("paused", source, paused=True)
    namespace.apply(binding)
    await namespace.has_condition("paused", "Paused", "True", "Paused")
    await kafkaio.produce(operator.bootstrap, source, [(None, b"hello")] * 5)
    await eventually("the lag is watched", lambda: namespace.status("paused").get("lag") == 5)
    assert namespace.wanted("paused") == 0
    binding["spec"]["paused"] = False
    namespace.apply(binding)
    await eventually("the lag is gone", lambda: namespace.status("paused").get("lag") == 0)


async def test_external_scaling_through_the_scale_subresource(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    namespace.apply(
        echo("external", await new_topic(), scaling={"mode": "External", "replicas": 1})
    )
    await eventually("one worker", lambda: namespace.wanted("external") == 1)
    namespace.kubectl("scale", "fb", "external", "--replicas=2")
    await eventually("two workers", lambda: namespace.status("external").get("replicas") == 2)
    assert namespace.status("external")["selector"]


async def test_start_from_latest_skips_what_was_there_before(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source, output = await new_topic(), await new_topic()
    await kafkaio.produce(operator.bootstrap, source, [(None, b"old")] * 3)
    latest = {"topic": source, "startFrom": "Latest"}
    namespace.apply(echo("late", source, source=latest, output={"topic": output}))
    await eventually("lag 0", lambda: namespace.status("late").get("lag") == 0)
    await kafkaio.produce(operator.bootstrap, source, [(None, b"new")])
    (result,) = await kafkaio.read_until(operator.bootstrap, output, 1)
    assert json.loads(result.value)["result"] == "new"
