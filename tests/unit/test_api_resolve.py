"""Operator defaults and environment overrides."""

from __future__ import annotations

import pytest

from flowbinding_api import InvalidBindingError, parse_binding
from flowbinding_api.resolve import with_kafka_defaults, with_overrides
from flowbinding_api.spec import Kafka, Tls
from manifests import manifest


def test_kafka_defaults_fill_only_what_is_missing() -> None:
    defaults = Kafka(bootstrap_servers="default:9092", tls=Tls(enabled=True))
    bare = with_kafka_defaults(parse_binding(manifest()), defaults)
    assert bare.spec.kafka == defaults
    own = parse_binding(manifest(kafka={"bootstrapServers": "own:9092", "tls": {"enabled": False}}))
    assert with_kafka_defaults(own, defaults).spec.kafka == own.spec.kafka


def test_the_environment_wins() -> None:
    binding = parse_binding(manifest(output={"topic": "out"}))
    changed = with_overrides(
        binding,
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
    changed = with_overrides(parse_binding(manifest()), {"FLOWBINDING__OUTPUT__TOPIC": "out"})
    assert changed.spec.output is not None
    assert changed.spec.output.topic == "out"


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
        with_overrides(parse_binding(manifest()), {variable: value})
    assert [problem.path for problem in error.value.problems] == [path]
