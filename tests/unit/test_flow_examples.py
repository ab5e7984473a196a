"""The loan example's manifests fit the API and each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowbinding_api import FlowBinding, load_binding
from flowbinding_api.flow import Backend
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import FlowRequest, FlowResult, Partition, Record

LOAN = Path(__file__).parents[2] / "examples" / "loan"
CHAIN = ("application", "risk", "decision")


def example(name: str) -> FlowBinding:
    return load_binding((LOAN / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", CHAIN)
def test_each_manifest_names_its_flow(name: str) -> None:
    binding = example(name)
    assert binding.key == f"loan/loan-{name}"
    assert binding.spec.flow.backend is Backend.LOCAL
    assert binding.spec.flow.file is not None
    ref = binding.spec.flow.file.config_map_key_ref
    assert ref is not None
    assert (ref.name, ref.key) == ("loan-flows", f"{name}.json")
    content = (LOAN / "flows" / ref.key).read_bytes()
    assert len(content) < 60 * 1024
    ids = {node["id"] for node in json.loads(content)["data"]["nodes"]}
    assert set(binding.spec.flow.tweaks) <= ids


@pytest.mark.parametrize("name", CHAIN)
def test_each_tweak_is_a_field_of_its_component(name: str) -> None:
    binding = example(name)
    document = json.loads((LOAN / "flows" / f"{name}.json").read_text())
    templates = {node["id"]: node["data"]["node"]["template"] for node in document["data"]["nodes"]}
    for component, fields in binding.spec.flow.tweaks.items():
        assert set(fields) <= set(templates[component])


def test_the_topics_make_a_chain() -> None:
    topics = []
    for name in CHAIN:
        spec = example(name).spec
        assert spec.output is not None
        topics += [spec.source.topic, spec.output.topic]
    assert topics == [
        "finance.loan.request.v1",
        "finance.loan.application.v1",
        "finance.loan.application.v1",
        "risk.scoring.result.v1",
        "risk.scoring.result.v1",
        "finance.loan.decision.v1",
    ]


@pytest.mark.parametrize(
    ("decision", "score", "amount", "topic"),
    [
        ("approved", 736, 25_000, "finance.loan.decision.v1"),
        ("approved", 736, 40_000, "finance.loan.review.v1"),
        ("review", 650, 25_000, "finance.loan.review.v1"),
        ("declined", 599, 49_500, "finance.loan.decision.v1"),
    ],
)
def test_what_a_person_has_to_look_at_goes_to_the_clerks(
    decision: str, score: int, amount: float, topic: str
) -> None:
    message = Record(Partition("risk.scoring.result.v1", 0), 0, b"a-1", b"{}", (), 0)
    request = FlowRequest(request_id="r", input="", session_id="s")
    answer = FlowResult({"decision": decision, "score": score, "amount": amount})
    written = Payload(example("decision")).output(message, request, answer)
    assert (written.topic, written.key) == (topic, b"a-1")
