"""The loan example's manifests fit the API and each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowbinding_api import FlowBinding, load_binding
from flowbinding_api.flow import Backend

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
