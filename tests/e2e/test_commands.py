"""`flowbinding` finds bindings, their brokers and their Secrets through the API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import kafkaio
from e2e.cluster import Namespace, eventually
from kafkaio import TopicFactory
from manifests import manifest
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def flowbinding(operator: Testbed, namespace: Namespace) -> Command:
    """Runs `flowbinding` in the namespace, with the testbed's kubeconfig and nothing else."""
    environment = {**os.environ, "KUBECONFIG": str(operator.kubeconfig)}
    # In kind, Pods and this machine reach the broker in different ways.
    forwarded = operator.bootstrap != operator.pod_bootstrap

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flowbinding_cli", *arguments, "-n", namespace.name]
        if forwarded and arguments[0] not in ("watch", "config"):
            command += ["--bootstrap-servers", operator.bootstrap]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def written(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def data(result: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(written(result))


async def test_a_message_from_the_command_to_its_result_and_back(
    operator: Testbed, namespace: Namespace, new_topic: TopicFactory, flowbinding: Command
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

    config = yaml.safe_load(written(flowbinding("config", "talk")))
    assert config["spec"]["kafka"]["bootstrapServers"] == operator.pod_bootstrap
    messages = ("--text", '{"message": "hello"}', "--text", "no JSON")
    assert data(flowbinding("produce", "talk", *messages, "-o", "json"))["written"] == 2
    [result] = await kafkaio.read_until(operator.bootstrap, output, 1)
    assert json.loads(result.value)["result"] == "hello"
    await kafkaio.read_until(operator.bootstrap, letters, 1)

    lines = written(flowbinding("tail", "talk", "--from-beginning", "--no-follow", "-o", "json"))
    assert {json.loads(line)["kind"] for line in lines.splitlines()} == {"result", "dead-letter"}
    [letter] = data(flowbinding("dead-letters", "list", "talk", "-o", "json"))
    assert letter["reason"] == "DecodeFailed"
    assert data(flowbinding("dead-letters", "drop", "talk", "-y", "-o", "json"))["dropped"] == 1
    assert data(flowbinding("dead-letters", "list", "talk", "-o", "json")) == []

    def at_rest() -> Any:
        found = data(flowbinding("status", "talk", "-o", "json"))
        return found if not any(p["lag"] for p in found["kafka"]["partitions"]) else None

    found = await eventually("all is committed", at_rest)
    [pod] = namespace.pods("talk")
    assert [w["name"] for w in found["kafka"]["workers"]] == [pod["metadata"]["name"]]
    assert "WorkersReady" in written(flowbinding("status", "talk"))
    told = data(flowbinding("explain", "talk", "-o", "json"))
    assert told["formula"]["Bounds"] == "1 to 1, and 3 partitions: 1 wanted"
    [row] = data(flowbinding("watch", "-o", "json"))
    assert (row["name"], row["ready"], row["healthy"]) == ("talk", 1, True)


def test_what_is_not_there_is_told_in_one_sentence(
    namespace: Namespace, flowbinding: Command
) -> None:
    result = flowbinding("status", "nobody")
    assert result.returncode == 1
    assert result.stderr == f"error: FlowBinding {namespace.name}/nobody: not found\n"
    assert flowbinding("watch", "--once").stdout == "No FlowBindings.\n"


def test_brokers_that_nobody_knows_are_asked_for(
    namespace: Namespace, flowbinding: Command
) -> None:
    # A paused binding that the operator cannot run has no ConfigMap.
    namespace.apply(
        manifest(
            {"metadata": {"name": "lost"}},
            kafka={"tls": {"enabled": True, "caSecretRef": {"name": "none", "key": "ca"}}},
            paused=True,
        )
    )
    result = flowbinding("produce", "lost", "--text", "x")
    assert result.returncode == 1
    assert "say --bootstrap-servers" in result.stderr
