"""A schedule: its CronJob, runs by hand, what they leave behind; topics that the operator makes."""

from __future__ import annotations

import json
import uuid

import pytest

import kafkaio
from e2e.cluster import Namespace, eventually
from e2e.flowbinding import flowbinding
from manifests import manifest
from testbed import Testbed

pytestmark = pytest.mark.timeout(240)

NEVER = {"cron": "0 0 1 1 *", "value": {"message": "good morning"}}


async def test_a_schedule_runs_by_hand_and_its_failure_heals(
    operator: Testbed, namespace: Namespace
) -> None:
    output = f"runs-{uuid.uuid4().hex[:8]}"
    binding = manifest(
        {"metadata": {"name": "nightly"}},
        source={"schedule": NEVER},
        flow={"backend": "Echo", "input": "{{ value.today }}"},
        output={"topic": output},
        provisioning={"create": True, "partitions": 2, "replicationFactor": 1},
        retry={"maxAttempts": 1},
    )
    del binding["spec"]["source"]["topic"]
    namespace.apply(binding)
    await namespace.has_condition("nightly", "Ready", "True", "Ready")
    assert namespace.condition("nightly", "TopicAvailable") == ("True", "TopicFound")
    assert namespace.get("cronjob", "nightly-worker")["spec"]["schedule"] == "0 0 1 1 *"
    assert namespace.get("deploy", "nightly-worker") == {}

    bad = flowbinding(namespace, "run", "nightly")
    assert bad.exit_code == 1, bad.stderr
    assert bad.stdout.startswith("Failed: TemplateFailed: spec.flow.input line 1")
    await namespace.has_condition("nightly", "Degraded", "True", "RunFailed")
    found = namespace.status("nightly")["conditions"][0]
    assert "TemplateFailed: spec.flow.input line 1" in found["message"]

    good = flowbinding(namespace, "run", "nightly", "--value", '{"today": "now"}')
    assert good.exit_code == 0, good.stderr
    assert good.stdout == "Succeeded\n"
    assert "run ended" in good.stderr
    (record,) = await kafkaio.read_until(operator.bootstrap, output, 1)
    result = json.loads(record.value)
    assert result["result"] == "now"
    assert result["source"]["topic"] == f"{namespace.name}.nightly"
    await namespace.has_condition("nightly", "Ready", "True", "Ready")
    assert namespace.status("nightly")["reason"] == "RunSucceeded"

    # A spec that only the operator sees through can still be paused.
    unclear = {**binding["spec"]["flow"], "input": "{{ value"}
    namespace.apply({**binding, "spec": {**binding["spec"], "flow": unclear, "paused": True}})
    await namespace.has_condition("nightly", "Ready", "False", "InvalidSpec")
    assert namespace.get("cronjob", "nightly-worker")["spec"]["suspend"] is True
    assert namespace.condition("nightly", "Paused") == ("True", "Paused")

    binding["spec"]["source"] = {"topic": output + ".in"}
    namespace.apply(binding)
    await eventually("a Deployment", lambda: namespace.get("deploy", "nightly-worker"))
    await eventually(
        "no CronJob", lambda: not namespace.get("cronjob", "nightly-worker").get("spec")
    )
    await namespace.has_condition("nightly", "Ready", "True", "Ready")
    refused = flowbinding(namespace, "run", "nightly")
    assert refused.exit_code == 1
    assert "has no schedule" in refused.stderr
