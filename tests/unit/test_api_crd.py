"""The CRD: made from the models, structural, complete, committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flowbinding_api import parse_binding
from flowbinding_api.crd import crd, crd_yaml, structural
from flowbinding_api.spec import FlowBindingSpec
from manifests import manifest, wrong_manifests

ROOT = Path(__file__).parents[2]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def version() -> dict[str, Any]:
    found: dict[str, Any] = crd()["spec"]["versions"][0]
    return found


def spec_nodes() -> list[tuple[str, dict[str, Any]]]:
    return list(nodes(structural(FlowBindingSpec), "spec"))


def validator() -> jsonschema.Draft4Validator:
    """OpenAPI 3.0 follows draft 4 in what matters here (exclusiveMinimum is a flag)."""
    return jsonschema.Draft4Validator(structural(FlowBindingSpec))


def test_the_committed_crd_is_the_generated_one() -> None:
    assert (ROOT / "crds/flowbinding.yaml").read_text() == crd_yaml()


def test_kubectl_shows_of_every_binding_what_it_reads_and_what_runs() -> None:
    # Of several names the first that is there: a flow's id, or else who answers without one.
    paths = {item["name"]: item["jsonPath"] for item in version()["additionalPrinterColumns"]}
    assert paths["Flow"] == ".spec.flow['id','backend']"
    assert paths["Topic"] == ".spec.source['topic','topics']"
    assert structural(FlowBindingSpec)["properties"]["flow"]["properties"]["backend"]["default"]


def test_every_field_is_typed_and_described() -> None:
    for path, node in spec_nodes():
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        if not path.endswith(("[]", "{}")):
            assert node.get("description"), path


def test_strings_and_lists_are_bounded() -> None:
    for path, node in spec_nodes():
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path


def test_only_free_form_objects_keep_unknown_fields() -> None:
    free = {p for p, node in spec_nodes() if node.get("x-kubernetes-preserve-unknown-fields")}
    assert free == {
        "spec.flow.http.body",
        "spec.flow.tweaks",
        "spec.source.schedule.value",
        "spec.worker.affinity",
    }


def test_resolved_documents_fit_the_schema() -> None:
    document = parse_binding(manifest(output={"topic": "out"})).document()
    validator().validate(document["spec"])


@pytest.mark.parametrize("case", wrong_manifests(), ids=lambda case: case["name"])
def test_what_is_wrong_breaks_the_schema_or_has_a_rule(case: dict[str, Any]) -> None:
    rules = [
        f"{path}{rule.get('fieldPath', '')}".replace("[]", "").replace("{}", ".A")
        for path, node in spec_nodes()
        for rule in node.get("x-kubernetes-validations", [])
    ]
    try:
        validator().validate(manifest(case["patch"])["spec"])
    except jsonschema.ValidationError:
        return
    assert case["field"] in rules


def test_scale_and_status_subresources() -> None:
    assert version()["subresources"]["status"] == {}
    assert version()["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
