"""Operator defaults and environment overrides."""

from __future__ import annotations

from typing import Any

import pytest

from flowbinding_api import FlowBinding, InvalidBindingError, parse_binding
from flowbinding_api.kafka import Kafka, Tls
from flowbinding_api.resolve import with_kafka_defaults, with_overrides
from manifests import manifest


def test_kafka_defaults_fill_only_what_is_missing() -> None:
    defaults = Kafka(bootstrap_servers="default:9092", tls=Tls(enabled=True))
    bare = with_kafka_defaults(parse_binding(manifest()), defaults)
    assert bare.spec.kafka == defaults
    given = {"bootstrapServers": "own:9092", "tls": {"enabled": False}}
    registry = {"url": "http://registry:8081"}
    own = parse_binding(manifest(kafka={**given, "schemaRegistry": registry}))
    assert with_kafka_defaults(own, defaults).spec.kafka == own.spec.kafka


def overridden(document: dict[str, Any], environment: dict[str, str]) -> FlowBinding:
    return parse_binding(with_overrides(document, environment))


def test_the_environment_wins() -> None:
    changed = overridden(
        manifest(output={"topic": "out"}),
        {
            "FLOWBINDING__FLOW__ID": "123",
            "FLOWBINDING__FLOW__TIMEOUT_SECONDS": "5",
            "FLOWBINDING__FLOW__TIMEOUTSECONDS": "7",
            "FLOWBINDING__PAUSED": "true",
            "FLOWBINDING__KAFKA__BOOTSTRAP_SERVERS": "k:9092",
            "FLOWBINDING__FLOW__TWEAKS": "{Model: {temperature: 0.2}}",
            "OTHER": "ignored",
        },
    ).spec
    assert changed.flow.id == "123"
    assert changed.flow.timeout_seconds == 5  # names are applied in order, _ sorts after letters
    assert changed.paused is True
    assert changed.kafka.bootstrap_servers == "k:9092"
    assert changed.flow.tweaks == {"Model": {"temperature": 0.2}}


def test_an_absent_section_can_be_made() -> None:
    changed = overridden(manifest(), {"FLOWBINDING__OUTPUT__TOPIC": "out"}).spec
    assert changed.output is not None
    assert changed.output.topic == "out"


def test_a_manifest_may_be_incomplete_without_the_environment() -> None:
    incomplete = manifest(flow={"backend": "Langflow", "id": "f"})
    changed = overridden(incomplete, {"FLOWBINDING__FLOW__URL": "http://langflow:7860"})
    assert changed.spec.flow.url == "http://langflow:7860"


def test_an_optional_field_can_be_taken_away() -> None:
    environment = {"FLOWBINDING__SOURCE__TOPIC": "null", "FLOWBINDING__SOURCE__TOPICS": "[a, b]"}
    assert overridden(manifest(), environment).spec.source.all_topics == ("a", "b")


def test_the_given_manifest_is_left_alone() -> None:
    given = manifest()
    overridden(given, {"FLOWBINDING__PAUSED": "true"})
    assert given == manifest()


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        ("FLOWBINDING__FLOW__COLOUR", "red", "spec.flow.COLOUR"),
        ("FLOWBINDING__FLOW__TIMEOUT_SECONDS", "soon", "spec.flow.timeoutSeconds"),
        ("FLOWBINDING__FLOW__", "x", "FLOWBINDING__FLOW__"),
        ("FLOWBINDING__PAUSED__X", "x", "FLOWBINDING__PAUSED__X"),
    ],
)
def test_a_wrong_override_names_its_field(variable: str, value: str, path: str) -> None:
    with pytest.raises(InvalidBindingError) as error:
        overridden(manifest(paused=False), {variable: value})
    assert [problem.path for problem in error.value.problems] == [path]
