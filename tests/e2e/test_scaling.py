"""Scaling on the real control plane: one step up, silence when idle, nothing lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

import kafkaio
from e2e.cluster import Namespace, eventually, processes
from kafkaio import TopicFactory
from manifests import manifest
from scale import burst
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)

# Pods that no node takes: what is tested is what the operator wants.
NOWHERE = {"nodeSelector": {"flowbinding.io/nowhere": "true"}}


def binding(name: str, topic: str, **spec: Any) -> dict[str, Any]:
    return manifest({"metadata": {"name": name}}, **{"source": {"topic": topic}, **spec})


@pytest.mark.alone
async def test_a_burst_from_zero_is_answered_in_one_step(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic = await new_topic(partitions=burst.PARTITIONS)
    namespace.apply(burst.binding("burst", namespace.name, topic))
    await burst.sleeping(operator, namespace.name, "burst")
    answer = await burst.answered(operator, namespace.name, "burst", topic)
    # A poll that falls into the burst may see a part of it; what comes after it is one step.
    assert answer.late_steps <= 1
    await namespace.has_condition("burst", "ScalingLimited", "True", "PartitionLimit")


async def test_a_killed_worker_loses_nothing(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic, output = await new_topic(partitions=6), await new_topic()
    namespace.apply(
        binding(
            "mortal",
            topic,
            output={"topic": output},
            scaling={"minReplicas": 2, "maxReplicas": 2},
            concurrency={"perReplica": 2},
        )
    )
    await namespace.has_condition("mortal", "WorkersAvailable", "True", "WorkersReady")
    sending = asyncio.create_task(
        kafkaio.produce(
            operator.bootstrap,
            topic,
            ((b"%d" % n, json.dumps({"message": str(n)}).encode()) for n in range(3000)),
        )
    )
    await kafkaio.read_until(operator.bootstrap, output, 200)
    victim = namespace.pods("mortal")[0]["metadata"]["name"]
    killed = list(processes("FLOWBINDING_INSTANCE", victim))
    assert killed
    for process in killed:
        os.kill(process, signal.SIGKILL)
    await sending

    async def complete() -> bool:
        results = await kafkaio.read_all(operator.bootstrap, output)
        return {json.loads(r.value)["result"] for r in results} == {str(n) for n in range(3000)}

    async with asyncio.timeout(90):
        while not await complete():
            pass
    (pod,) = [p for p in namespace.pods("mortal") if p["metadata"]["name"] == victim]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


@pytest.mark.alone
async def test_a_killed_operator_converges_and_never_scales_to_zero_on_missing_data(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic = await new_topic(partitions=6)
    namespace.apply(
        binding(
            "held",
            topic,
            scaling={"maxReplicas": 6},
            concurrency={"perReplica": 1},
            worker=NOWHERE,
        )
    )
    await kafkaio.produce(operator.bootstrap, topic, ((b"%d" % n, b"{}") for n in range(600)))
    await eventually("six workers", lambda: namespace.wanted("held") == 6)
    seen: set[int | None] = set()

    def observe() -> bool:
        seen.add(namespace.wanted("held"))
        status = operator.kubectl(
            "-n",
            "flowbinding-system",
            "get",
            "deploy",
            "-o",
            "jsonpath={.items[0].status.readyReplicas}",
        )
        return status == "1"

    kafka = operator.component("kafka")
    kafka.stop()
    try:
        operator.kubectl(
            "-n", "flowbinding-system", "delete", "pods", "--all", "--grace-period=0", "--force"
        )
        await eventually("the operator is back", observe, seconds=60)
        # Another leads only when the Lease of the one that was killed has ended.
        await namespace.has_condition(
            "held", "TopicAvailable", "Unknown", "KafkaUnreachable", seconds=60
        )
        observe()
    finally:
        kafka.start()
    await namespace.has_condition("held", "TopicAvailable", "True", "TopicFound", seconds=60)
    observe()
    assert seen == {6}
