"""What is rendered: bindings, and a message of 1 KiB."""

from __future__ import annotations

import json
from typing import Any

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import FlowResult, Partition, Record

MESSAGE_BYTES = 1024
ANSWER = FlowResult('```json\n{"score": 712, "band": "low", "reason": "share of income 0.2"}\n```')
OUTPUT: dict[str, Any] = {"topic": "risk.scoring.result.v1"}
TEMPLATED: dict[str, Any] = {
    **OUTPUT,
    "key": "{{ value.customer.id }}",
    "value": '{"id": {{ value.application_id | tojson }}, "score": {{ result.score }}}',
    "routes": [
        {"when": "result.score >= 700", "topic": "approved"},
        {"when": "result.score >= 600", "topic": "review"},
    ],
}
FLOW: dict[str, Any] = {
    "input": "Applicant {{ value.customer.name }} asks for {{ value.amount }}: {{ value.message }}",
    "sessionId": "{{ value.customer.id }}",
    "tweaks": {
        "Model-x": {"model_name": "rules-v1", "temperature": "{{ value.temperature }}"},
        "Prompt-x": {"template": "Write to {{ value.customer.name }} in {{ value.language }}."},
    },
}
SPECS: dict[str, dict[str, Any]] = {
    "defaults": {"output": OUTPUT},
    "envelope CloudEvents": {"output": {**OUTPUT, "envelope": "CloudEvents"}},
    "every field a template": {"flow": FLOW, "filter": "value.amount > 10", "output": TEMPLATED},
}
"""Bindings by what they show."""


def message() -> Record:
    """A JSON message of 1 KiB with 15 fields."""
    content: dict[str, Any] = {
        "application_id": "a-0123456789ab",
        "customer": {"id": "c-4711", "name": "Ada Lovelace", "since": 1843, "tags": ["a", "b"]},
        "amount": 25000.5,
        "term_months": 48,
        "language": "English",
        "temperature": 0.2,
        "history": [{"month": month, "paid": True, "amount": 310.25} for month in range(6)],
        "message": "",
    }
    rest = MESSAGE_BYTES - len(json.dumps(content).encode())
    content["message"] = ("please decide soon, " * MESSAGE_BYTES)[:rest]
    value = json.dumps(content).encode()
    return Record(Partition("loans", 3), 42, b"a-0123456789ab", value, (), 1_795_257_558_250)


def binding(spec: dict[str, Any]) -> FlowBinding:
    """A binding of `SPECS`."""
    source = {"topic": "loans"} | ({"filter": spec["filter"]} if "filter" in spec else {})
    flow = {"backend": "Echo", **spec.get("flow", {})}
    return parse_binding(
        {
            "apiVersion": "flowbinding.io/v1alpha1",
            "kind": "FlowBinding",
            "metadata": {"name": "risk", "namespace": "loan"},
            "spec": {"source": source, "flow": flow, "output": spec["output"]},
        }
    )


def render(payload: Payload, record: Record) -> bytes:
    """All that is rendered for one message: its request, its result's key, value and topic."""
    request = payload.request(record)
    if request is None:
        raise ValueError("the message was filtered out")
    return payload.output(record, request, ANSWER).value
