"""Two operators, and a control plane in trouble: one acts, and nothing is scaled twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

import kafkaio
from e2e.cluster import Namespace, eventually, processes
from kafkaio import TopicFactory
from manifests import manifest
from testbed import Testbed

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

SYSTEM = ("-n", "flowbinding-system")
NOWHERE = {"nodeSelector": {"flowbinding.io/nowhere": "true"}}
"""No node takes the workers: what is tested is what the operators want."""


def binding(name: str, topic: str, most: int) -> dict[str, Any]:
    return manifest(
        {"metadata": {"name": name}},
        source={"topic": topic},
        scaling={"maxReplicas": most},
        concurrency={"perReplica": 1},
        worker=NOWHERE,
    )


def pods(bed: Testbed) -> list[dict[str, Any]]:
    """Operators that are not about to go."""
    items = json.loads(bed.kubectl(*SYSTEM, "get", "pods", "-o", "json"))["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def leader(bed: Testbed) -> str:
    """Name of the Pod that holds the Lease; empty while nobody does."""
    path = "-o=jsonpath={.spec.holderIdentity}"
    return bed.kubectl(*SYSTEM, "get", "lease", "flowbinding", path).rpartition("_")[0]


def says_to_lead(pod: dict[str, Any]) -> float:
    text = httpx.get(f"http://{pod['status']['podIP']}:8080/metrics").text
    found = re.search(r"^flowbinding_operator_leader (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def written(pod: dict[str, Any]) -> set[str]:
    """Kinds of objects that an operator has written."""
    text = httpx.get(f"http://{pod['status']['podIP']}:8080/metrics").text
    return set(
        re.findall(r'^flowbinding_operator_kubernetes_writes_total{kind="(\w+)"}', text, re.M)
    )


def restarts(pod: dict[str, Any]) -> tuple[str, int]:
    (status,) = pod["status"]["containerStatuses"]
    return pod["metadata"]["name"], status["restartCount"]


def ready(bed: Testbed, count: int) -> bool:
    states = [
        status["ready"]
        for pod in pods(bed)
        for status in pod["status"].get("containerStatuses", [])
    ]
    return states == [True] * count


def scalings(namespace: Namespace, name: str) -> list[str]:
    """What was told of scaling, such as "from 0 to 6 replicas"."""
    notes = [e["note"] for e in namespace.events(name) if e["reason"] == "Scaled"]
    return sorted(note.partition(":")[0] for note in notes)


async def burst(bed: Testbed, topic: str) -> None:
    await kafkaio.produce(bed.bootstrap, topic, ((b"%d" % n, b"{}") for n in range(600)))


@pytest.fixture
async def two(operator: Testbed) -> AsyncIterator[Testbed]:
    """Two operators, for one test."""
    operator.kubectl(*SYSTEM, "scale", "deploy", "flowbinding", "--replicas=2")
    try:
        await eventually("two are ready", lambda: ready(operator, 2), seconds=60)
        yield operator
    finally:
        operator.kubectl(*SYSTEM, "scale", "deploy", "flowbinding", "--replicas=1")
        await eventually("one leads", lambda: _alone(operator), seconds=60)


def _alone(bed: Testbed) -> bool:
    left = pods(bed)
    return len(left) == 1 and leader(bed) == left[0]["metadata"]["name"]


async def test_another_operator_takes_over_in_mid_scale(
    two: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topics = [await new_topic(partitions=6) for _ in range(2)]
    namespace.apply(*(binding(f"b{n}", topic, 6) for n, topic in enumerate(topics)))
    for name in ("b0", "b1"):
        await namespace.has_condition(name, "Ready", "True", "Ready")
    first = leader(two)
    assert sorted(map(says_to_lead, pods(two))) == [0, 1]

    # Without a word, while it has scaling to do.
    killed = list(processes("FLOWBINDING_OPERATOR_INSTANCE", first))
    assert killed
    sending = asyncio.create_task(burst(two, topics[0]))
    for process in killed:
        os.kill(process, signal.SIGKILL)
    await sending
    await eventually("the other leads", lambda: leader(two) not in ("", first), seconds=60)
    await eventually("six workers", lambda: namespace.wanted("b0") == 6, seconds=60)
    second = leader(two)
    await eventually("both are ready", lambda: ready(two, 2), seconds=60)

    # In order: at once, well before the end of a lease of 15 seconds.
    sending = asyncio.create_task(burst(two, topics[1]))
    two.kubectl(*SYSTEM, "delete", "pod", second, "--wait=false")
    await eventually("the Lease is handed on", lambda: leader(two) != second, seconds=12)
    await sending
    await eventually("six workers", lambda: namespace.wanted("b1") == 6, seconds=60)
    await eventually("both are ready", lambda: ready(two, 2), seconds=60)
    await eventually("one leads", lambda: sorted(map(says_to_lead, pods(two))) == [0, 1])
    for name in ("b0", "b1"):
        assert scalings(namespace, name) == ["from 0 to 6 replicas"]
        assert namespace.wanted(name) == 6
    # What it has found was as it should be.
    (third,) = (pod for pod in pods(two) if says_to_lead(pod))
    assert not written(third) & {"Deployment", "ConfigMap"}


async def test_a_control_plane_in_trouble_scales_nothing_twice(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topics = [await new_topic(partitions=6) for _ in range(2)]
    namespace.apply(*(binding(f"b{n}", topic, 6) for n, topic in enumerate(topics)))
    for name in ("b0", "b1"):
        await namespace.has_condition(name, "Ready", "True", "Ready")

    (pod,) = pods(operator)
    # The store stands still for longer than a leader may act without renewing its lease.
    store = operator.component("etcd").pid
    assert store is not None
    os.kill(store, signal.SIGSTOP)
    try:
        await burst(operator, topics[0])
        await eventually("it stands by", lambda: says_to_lead(pod) == 0, seconds=60)
    finally:
        os.kill(store, signal.SIGCONT)
    await eventually("six workers", lambda: namespace.wanted("b0") == 6, seconds=60)

    server = operator.component("kube-apiserver")
    sending = asyncio.create_task(burst(operator, topics[1]))
    server.stop()
    server.start()
    await sending
    await eventually("six workers", lambda: namespace.wanted("b1") == 6, seconds=60)
    for name in ("b0", "b1"):
        assert namespace.wanted(name) == 6
        assert set(scalings(namespace, name)) <= {"from 0 to 6 replicas"}
    # It did all that without a restart.
    (after,) = pods(operator)
    assert restarts(after) == restarts(pod)
