"""What is wrong shows as a condition with its reason, costs no message, and heals by itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import kafkaio
from e2e.cluster import Namespace, eventually
from integration.flow_server import Call, flow_server, refused
from kafkaio import TopicFactory
from manifests import manifest
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)

FLOW = kafkaio.ROOT / "tests/integration/langflow/flows/echo.json"
SOON = {"idleSeconds": 5, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 2}}}


def binding(name: str, **spec: Any) -> dict[str, Any]:
    return manifest({"metadata": {"name": name}}, **{"scaling": SOON, **spec})


def secret(name: str, **data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


async def lag_is_gone(namespace: Namespace, name: str, *, seconds: float = 60) -> None:
    await eventually(
        "the lag is gone", lambda: namespace.status(name).get("lag") == 0, seconds=seconds
    )


async def test_a_missing_topic(operator: Testbed, namespace: Namespace) -> None:
    topic = f"{namespace.name}-later"
    namespace.apply(binding("early", source={"topic": topic}))
    await namespace.has_condition("early", "TopicAvailable", "False", "TopicMissing")
    await namespace.has_condition("early", "Ready", "False", "TopicMissing")
    (event,) = [e for e in namespace.events("early") if e["reason"] == "TopicMissing"]
    assert topic in event["note"]
    await kafkaio.create_topics(operator.bootstrap, topic)
    await namespace.has_condition("early", "Ready", "True", "Ready")
    await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")] * 3)
    await eventually("the lag was seen", lambda: namespace.status("early").get("readyReplicas"))
    await lag_is_gone(namespace, "early")


async def test_a_missing_secret(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic = await new_topic()

    async def check_key(call: Call) -> web.Response | None:
        return None if call.api_key == "good" else refused(403, "Invalid or missing API key")

    async with flow_server() as server:
        server.answer = check_key
        flow = {
            "backend": "Langflow",
            "id": "echo",
            "url": server.url,
            "apiKeySecretRef": {"name": "langflow", "key": "api-key"},
        }
        namespace.apply(binding("locked", source={"topic": topic}, flow=flow))
        await namespace.has_condition("locked", "Ready", "False", "SecretMissing")
        await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")] * 5)

        namespace.apply(secret("langflow", **{"api-key": "wrong"}))
        await namespace.has_condition("locked", "FlowReachable", "False", "FlowUnauthorized")

        namespace.apply(secret("langflow", **{"api-key": "good"}))
        await lag_is_gone(namespace, "locked")
        assert len({c.request_id for c in server.calls if c.api_key == "good"}) == 5
        await namespace.has_condition("locked", "Ready", "True", "Ready")


async def test_an_unknown_flow(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic = await new_topic()
    known: set[str] = set()

    async def check_flow(call: Call) -> web.Response | None:
        detail = f"Flow identifier {call.flow} not found"
        return None if call.flow in known else refused(404, detail)

    async with flow_server() as server:
        server.answer = check_flow
        flow = {"backend": "Langflow", "id": "later", "url": server.url}
        namespace.apply(binding("unknown", source={"topic": topic}, flow=flow))
        await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")] * 5)
        await namespace.has_condition("unknown", "FlowReachable", "False", "FlowNotFound")
        known.add("later")
        await lag_is_gone(namespace, "unknown")
        assert len({call.request_id for call in server.calls}) == 5


@pytest.fixture
def claim(operator: Testbed, namespace: Namespace, tmp_path: Path) -> Iterator[Path]:
    """What the PersistentVolumeClaim `flows` holds."""
    if operator.kind_context:
        pytest.skip("the nodes of a kind cluster do not see this machine's files")
    size = {"storage": "1Mi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace.name},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadOnlyMany"],
            "hostPath": {"path": str(tmp_path)},
        },
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "flows"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": size},
            "storageClassName": "",
            "volumeName": namespace.name,
        },
    }
    operator.kubectl("apply", "-f", "-", input=json.dumps(volume))
    namespace.apply(wanted)
    yield tmp_path
    operator.kubectl("delete", "pv", namespace.name, "--wait=false")


async def test_a_broken_flow_file(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory, claim: Path
) -> None:
    topic, output = await new_topic(), await new_topic()
    flow: dict[str, Any] = {
        "backend": "Local",
        "file": {"configMapKeyRef": {"name": "flows", "key": "echo.json"}},
    }
    local = binding("local", source={"topic": topic}, flow=flow, output={"topic": output})
    namespace.apply(local)
    await namespace.has_condition("local", "Ready", "False", "ConfigMapMissing")

    file = claim / "risk" / "echo.json"
    file.parent.mkdir()
    file.write_text("{broken")
    path = str(file.relative_to(claim))
    flow["file"] = {"persistentVolumeClaim": {"claimName": "flows", "path": path}}
    namespace.apply({**local, "spec": {**local["spec"], "flow": flow}})
    await kafkaio.produce(operator.bootstrap, topic, [(None, b"hello")])
    await namespace.has_condition("local", "Ready", "False", "FlowFileInvalid")
    [said] = [c for c in namespace.status("local")["conditions"] if c["type"] == "Ready"]
    assert "risk/echo.json of PersistentVolumeClaim flows" in said["message"]

    file.write_text(FLOW.read_text())
    (result,) = await kafkaio.read_until(operator.bootstrap, output, 1)
    assert json.loads(result.value)["result"] == "hello"
    await namespace.has_condition("local", "Ready", "True", "Ready")


async def test_a_binding_without_a_flow_is_skipped(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic = await new_topic()
    await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")])
    flow = {"backend": "Langflow", "url": "http://langflow.invalid:7860"}
    namespace.apply(binding("later", source={"topic": topic}, flow=flow))
    await namespace.has_condition("later", "FlowConfigured", "False", "Skipped")
    await eventually("the lag is watched", lambda: namespace.status("later").get("lag") == 1)
    assert namespace.wanted("later") == 0


async def test_an_output_topic_that_does_not_exist(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic, output = await new_topic(), f"{namespace.name}-output"
    namespace.apply(binding("blocked", source={"topic": topic}, output={"topic": output}))
    await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")] * 5)
    await namespace.has_condition("blocked", "Degraded", "True", "OutputUnavailable")
    await kafkaio.create_topics(operator.bootstrap, output)
    assert len(await kafkaio.read_until(operator.bootstrap, output, 5)) == 5
    await namespace.has_condition("blocked", "Degraded", "False", "Healthy")


@pytest.mark.alone
async def test_kafka_away_and_back(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    topic, output = await new_topic(), await new_topic()
    namespace.apply(
        binding(
            "patient",
            source={"topic": topic},
            output={"topic": output},
            scaling={**SOON, "minReplicas": 1},
        )
    )
    await namespace.has_condition("patient", "WorkersAvailable", "True", "WorkersReady")
    kafka = operator.component("kafka")
    kafka.stop()
    try:
        await namespace.has_condition("patient", "TopicAvailable", "Unknown", "KafkaUnreachable")
        assert namespace.wanted("patient") == 1
    finally:
        kafka.start()
    await namespace.has_condition("patient", "Ready", "True", "Ready", seconds=60)
    await kafkaio.produce(operator.bootstrap, topic, [(None, b"x")] * 5)
    assert len(await kafkaio.read_until(operator.bootstrap, output, 5, seconds=90)) == 5
    assert all(
        pod["status"]["containerStatuses"][0]["restartCount"] == 0
        for pod in namespace.pods("patient")
    )


async def test_a_binding_to_a_cluster_that_is_not_there_delays_no_other(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    namespace.apply(
        binding("lost", source={"topic": "t"}, kafka={"bootstrapServers": "127.0.0.1:9"})
    )
    await namespace.has_condition("lost", "TopicAvailable", "Unknown", "KafkaUnreachable")
    topic = await new_topic()
    namespace.apply(binding("fine", source={"topic": topic}))
    await namespace.has_condition("fine", "Ready", "True", "Ready")


async def test_a_template_with_a_syntax_error(
    namespace: Namespace, new_topic: TopicFactory
) -> None:
    flow = {"backend": "Echo", "input": "{{ value."}
    namespace.apply(binding("typo", source={"topic": await new_topic()}, flow=flow))
    await namespace.has_condition("typo", "Ready", "False", "InvalidSpec")
    (ready,) = [c for c in namespace.status("typo")["conditions"] if c["type"] == "Ready"]
    assert "spec.flow.input" in ready["message"]


async def test_a_value_that_only_the_api_server_can_judge(
    namespace: Namespace, new_topic: TopicFactory
) -> None:
    worker = {"affinity": {"nodeAffinity": {"colour": "red"}}}
    namespace.apply(binding("refused", source={"topic": await new_topic()}, worker=worker))
    await namespace.has_condition("refused", "Ready", "False", "ApplyRefused")
