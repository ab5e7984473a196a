"""Parsing: every problem with its field; nulls are absent; defaults are filled in."""

from __future__ import annotations

from typing import Any

import pytest

from flowbinding_api import InvalidBindingError, load_binding, parse_binding
from manifests import manifest, wrong_manifests


@pytest.mark.parametrize("case", wrong_manifests(), ids=lambda case: case["name"])
def test_a_wrong_manifest_names_its_field(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(manifest(case["patch"]))
    paths = [problem.path.replace("[0]", "") for problem in error.value.problems]
    assert paths == [case["field"]]


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(
            manifest(
                source={"topic": "a b", "colour": "red"},
                flow={"timeoutSeconds": -1, "input": "{{ value."},
                concurrency={"ordering": "Random"},
            )
        )
    assert {problem.path for problem in error.value.problems} == {
        "spec.source.topic",
        "spec.source.colour",
        "spec.flow.timeoutSeconds",
        "spec.flow.input",
        "spec.concurrency.ordering",
    }


def test_rules_are_checked_beside_wrong_fields() -> None:
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(
            manifest(
                flow={"backend": "Langflow", "timeoutSeconds": -1},
                retry={"maxAttempts": 0, "initialBackoffSeconds": 9, "maxBackoffSeconds": 1},
                output={"topic": "in"},
            )
        )
    assert {problem.path for problem in error.value.problems} == {
        "spec.flow.timeoutSeconds",
        "spec.flow.url",
        "spec.retry.maxAttempts",
        "spec.retry.initialBackoffSeconds",
        "spec.output.topic",
    }


def test_messages_describe_values_without_showing_them() -> None:
    secret = "s3cret"
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(
            manifest(
                flow={"backend": "Langflow", "url": f"htp://user:{secret}@h"},
                worker={"env": [{"name": "KEY", "value": 12345}]},
            )
        )
    assert {problem.path for problem in error.value.problems} == {
        "spec.flow.url",
        "spec.worker.env[0].value",
    }
    assert secret not in str(error.value)
    assert "12345" not in str(error.value)


def test_a_null_in_tweaks_is_a_value() -> None:
    tweaks = {"Node": {"field": None, "items": [None]}}
    document = manifest()
    document["spec"]["flow"]["tweaks"] = tweaks
    binding = parse_binding(document)
    assert binding.spec.flow.tweaks == tweaks
    assert binding.document()["spec"]["flow"]["tweaks"] == tweaks


def test_quantities_may_be_numbers() -> None:
    binding = parse_binding(manifest(worker={"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}))
    assert binding.spec.worker.resources.limits == {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.flow.input", {"flow": {"input": "{{ value"}}),
        ("spec.flow.sessionId", {"flow": {"sessionId": "{% if %}"}}),
        ("spec.flow.tweaks.Node.names[1]", {"flow": {"tweaks": {"Node": {"names": ["a", "{{"]}}}}),
        ("spec.output.value", {"output": {"topic": "out", "value": "{{ 1 +"}}),
        ("spec.source.filter", {"source": {"filter": "value.amount >"}}),
    ],
)
def test_template_errors_name_field_and_line(field: str, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(manifest(**spec))
    (problem,) = error.value.problems
    assert problem.path == field


@pytest.mark.parametrize("text", ["", "- a", "a: [", "42"])
def test_text_that_is_no_manifest(text: str) -> None:
    with pytest.raises(InvalidBindingError):
        load_binding(text)


def test_nulls_count_as_absent() -> None:
    binding = parse_binding(
        manifest()
        | {
            "spec": {
                "source": {"topic": "in", "consumerGroup": None, "topics": None},
                "flow": {"backend": "Echo", "url": None},
            }
        }
    )
    assert binding.consumer_group == "default.example"


def test_defaults_and_names() -> None:
    binding = parse_binding(manifest(scaling={"minReplicas": 1}))
    assert binding.spec.concurrency.per_replica == 10
    assert binding.spec.scaling.behavior.scale_down.stabilization_window_seconds == 120
    assert binding.dead_letter_topic("in") == "in.example.dlq"
    assert binding.key == "default/example"
    assert parse_binding(binding.document()) == binding


def test_dead_letters_can_be_off_or_elsewhere() -> None:
    off = parse_binding(manifest(deadLetter={"enabled": False}))
    assert off.dead_letter_topic("in") is None
    elsewhere = parse_binding(manifest(deadLetter={"topic": "trouble"}))
    assert elsewhere.dead_letter_topic("in") == "trouble"


def test_a_langflow_binding_without_flow_id_runs_nothing() -> None:
    langflow = {"backend": "Langflow", "url": "http://langflow:7860"}
    assert not parse_binding(manifest(flow=langflow)).spec.flow.runs
    assert parse_binding(manifest(flow={**langflow, "id": "f"})).spec.flow.runs
    assert parse_binding(manifest()).spec.flow.runs


def test_a_name_that_fits_no_label_is_refused() -> None:
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(manifest({"metadata": {"name": "n" * 57}}))
    assert error.value.problems[0].path == "metadata.name"


def test_a_name_that_makes_a_group_of_replays_is_refused() -> None:
    named = {"metadata": {"name": "orders.replay"}}
    with pytest.raises(InvalidBindingError) as error:
        parse_binding(manifest(named))
    assert error.value.problems[0].path == "metadata.name"
    own = parse_binding(manifest(named, source={"topic": "in", "consumerGroup": "orders"}))
    assert own.consumer_group == "orders"
