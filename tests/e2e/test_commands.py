"""`flowbinding` finds bindings, their brokers and their Secrets through the API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from typer.testing import Result

import kafkaio
from e2e.cluster import Namespace, eventually
from e2e.flowbinding import flowbinding
from kafkaio import TopicFactory
from manifests import manifest
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)


def written(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout


def data(result: Result) -> Any:
    return json.loads(written(result))


async def test_a_message_from_the_command_to_its_result_and_back(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory
) -> None:
    source, output, letters = await new_topic(), await new_topic(), await new_topic()
    # No brokers of its own: the commands find the operator's default in the worker's ConfigMap.
    namespace.apply(
        manifest(
            {"metadata": {"name": "talk"}},
            source={"topic": source, "format": "JSON"},
            output={"topic": output},
            deadLetter={"topic": letters},
            scaling={"minReplicas": 1, "maxReplicas": 1},
        )
    )
    await namespace.has_condition("talk", "WorkersAvailable", "True", "WorkersReady")

    config = yaml.safe_load(written(flowbinding(namespace, "config", "talk")))
    assert config["spec"]["kafka"]["bootstrapServers"] == operator.pod_bootstrap
    messages = ("--text", '{"message": "hello"}', "--text", "no JSON")
    assert data(flowbinding(namespace, "produce", "talk", *messages, "-o", "json"))["written"] == 2
    [result] = await kafkaio.read_until(operator.bootstrap, output, 1)
    assert json.loads(result.value)["result"] == "hello"
    await kafkaio.read_until(operator.bootstrap, letters, 1)

    lines = written(
        flowbinding(namespace, "tail", "talk", "--from-beginning", "--no-follow", "-o", "json")
    )
    assert {json.loads(line)["kind"] for line in lines.splitlines()} == {"result", "dead-letter"}
    [letter] = data(flowbinding(namespace, "dead-letters", "list", "talk", "-o", "json"))
    assert letter["reason"] == "DecodeFailed"
    assert (
        data(flowbinding(namespace, "dead-letters", "drop", "talk", "-y", "-o", "json"))["dropped"]
        == 1
    )
    assert data(flowbinding(namespace, "dead-letters", "list", "talk", "-o", "json")) == []

    def at_rest() -> Any:
        found = data(flowbinding(namespace, "status", "talk", "-o", "json"))
        return found if not any(p["lag"] for p in found["kafka"]["partitions"]) else None

    found = await eventually("all is committed", at_rest)
    [pod] = namespace.pods("talk")
    assert [w["name"] for w in found["kafka"]["workers"]] == [pod["metadata"]["name"]]
    assert "WorkersReady" in written(flowbinding(namespace, "status", "talk"))
    told = data(flowbinding(namespace, "explain", "talk", "-o", "json"))
    assert told["formula"]["Bounds"] == "1 to 1, and 3 partitions: 1 wanted"
    [row] = data(flowbinding(namespace, "watch", "-o", "json"))
    assert (row["name"], row["ready"], row["healthy"]) == ("talk", 1, True)


def test_what_is_not_there_is_told_in_one_sentence(namespace: Namespace) -> None:
    result = flowbinding(namespace, "status", "nobody")
    assert result.exit_code == 1
    assert result.stderr == f"error: FlowBinding {namespace.name}/nobody: not found\n"
    assert flowbinding(namespace, "watch", "--once").stdout == "No FlowBindings.\n"


def test_brokers_that_nobody_knows_are_asked_for(namespace: Namespace) -> None:
    # A paused binding that the operator cannot run has no ConfigMap.
    namespace.apply(
        manifest(
            {"metadata": {"name": "lost"}},
            kafka={"tls": {"enabled": True, "caSecretRef": {"name": "none", "key": "ca"}}},
            paused=True,
        )
    )
    result = flowbinding(namespace, "produce", "lost", "--text", "x")
    assert result.exit_code == 1
    assert "say --bootstrap-servers" in result.stderr
