"""The ways to run a flow of Langflow, and the record that each makes of a message."""

from __future__ import annotations

import json
from typing import Any

from flowbinding_api import parse_binding
from flowbinding_worker import ports
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Partition, ProcessingError, Record
from integration.langflow.server import LangflowServer

RECORD = Record(Partition("in", 3), 7, b"key-1", b"hi\nthere", (), 1_000)
VARIABLES = {
    "THE_CITY": {"value": "Bonn"},
    "TOKEN": {"secretKeyRef": {"name": "langflow", "key": "token"}},
}
SPEC: dict[str, Any] = {
    "input": "{{ text }}",
    "sessionId": "{{ key }}",
    "globalVariables": VARIABLES,
}


def specs(server: LangflowServer, served: LangflowServer, name: str) -> dict[str, dict[str, Any]]:
    """`spec.flow` for each way to run a flow."""

    def at(there: LangflowServer, key: str, api: str, **fields: Any) -> dict[str, Any]:
        secret = {"apiKeySecretRef": {"name": "langflow", "key": key}}
        return {"backend": "Langflow", "url": there.url, "api": api, **secret, **fields}

    return {
        "Run by name": at(server, "good", "Run", id=name),
        "Run": at(server, "good", "Run", id=server.flows[name]),
        "Workflows": at(server, "good", "Workflows", id=server.flows[name]),
        "Serve": at(served, "served", "Serve", id=served.flows[name]),
        "Workflows of lfx serve": at(served, "served", "Workflows", id=served.flows[name]),
    }


async def outcome(flow: dict[str, Any], files: Files, runner: ports.Flow | None = None) -> Any:
    """The record that a message becomes, as data, but for the flow's own name; or its failure."""
    manifest: dict[str, Any] = {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {"name": "b"},
        "spec": {"source": {"topic": "in"}, "flow": flow, "output": {"topic": "out"}},
    }
    binding = parse_binding(manifest)
    payload = Payload(binding)
    asked = payload.request(RECORD)
    assert asked is not None
    own = None if runner else LangflowFlow(binding.spec.flow, files)
    try:
        result = await (runner or own).run(asked)  # type: ignore[union-attr]
    except ProcessingError as error:
        return error.failure, error.reason
    finally:
        if own is not None:
            await own.close()
    written = payload.output(RECORD, asked, result)
    value = json.loads(written.value)
    assert value.pop("flow")
    return written.key, value


def able(way: str, fields: dict[str, Any]) -> bool:
    """Whether a way knows these fields. lfx serve takes no tweaks; data need the run API."""
    lacks = {
        "Serve": {"tweaks", "outputComponent"},
        "Workflows of lfx serve": {"tweaks"},
    }
    data = fields.get("outputComponent") == "MakeData-x" and not way.startswith("Run")
    return not lacks.get(way, set()) & fields.keys() and not data
