"""The chart's schema of values, and its files that are generated or have to agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.protocols import Validator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "flowbinding"
REF = {"name": "kafka", "key": "ca.crt"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Validator:
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def merged(base: Any, over: Any) -> Any:
    """Values as Helm merges them, before it checks them."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


def test_the_defaults_are_valid(validator: Validator, defaults: dict[str, Any]) -> None:
    validator.validate(defaults)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 0},
        {"image": {"registry": "r.io"}},
        {"image": {"repository": ""}},
        {"image": {"repository": "r.io/fb@sha256:1"}},
        {"image": {"digest": "latest"}},
        {"image": {"tag": "a:b"}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"imagePullSecrets": ["registry"]},
        {"watchNamespaces": "orders"},
        {"watchNamespaces": ["orders", "orders"]},
        {"watchNamespaces": ["Orders"]},
        {"watchNamespaces": ["team-*"]},
        {"kafka": {"bootstrapServers": "kafka"}},
        {"kafka": {"bootstrap": "kafka:9092"}},
        {"kafka": {"tls": {"caSecretRef": {"name": "ca"}}}},
        {"kafka": {"tls": {"certificateSecretRef": REF}}},
        {"kafka": {"tls": {"keySecretRef": REF}}},
        {"kafka": {"sasl": {"mechanism": "GSSAPI"}}},
        {"kafka": {"sasl": {"mechanism": "PLAIN"}}},
        {"kafka": {"sasl": {"mechanism": "PLAIN", "usernameSecretRef": REF}}},
        {"worker": {"replicas": 1}},
        {"worker": {"resources": {"limit": {"cpu": 1}}}},
        {"pollIntervalSeconds": "2"},
        {"pollIntervalSeconds": 0},
        {"pollIntervalSeconds": 301},
        {"probeIntervalSeconds": -1},
        {"probeIntervalSeconds": 86401},
        {"logLevel": "trace"},
        {"logFormat": "xml"},
        {"commonLabels": {"team": 1}},
        {"rbac": {"aggregated": True}},
        {"metrics": {"serviceMonitor": {"interval": "soon"}}},
        {"crds": {"enabled": "yes"}},
        {"networkPolicy": {"ingressFrom": {}}},
    ],
    ids=json.dumps,
)
def test_refused(validator: Validator, defaults: dict[str, Any], values: dict[str, Any]) -> None:
    assert not validator.is_valid(merged(defaults, values))


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"anything": 1}, "enabled": True},
        {"image": {"repository": "r.io:5000/flows/fb"}},
        {"resources": {"limits": {"cpu": 0.5, "memory": "1Gi"}}},
        {"kafka": {"tls": {"enabled": True}}},
        {"kafka": {"tls": {"certificateSecretRef": REF, "keySecretRef": REF}}},
        {
            "kafka": {
                "sasl": {
                    "mechanism": "PLAIN",
                    "usernameSecretRef": REF,
                    "passwordSecretRef": REF,
                }
            }
        },
        {"extraObjects": ["kind: X", {"kind": "X"}]},
    ],
    ids=json.dumps,
)
def test_accepted(validator: Validator, defaults: dict[str, Any], values: dict[str, Any]) -> None:
    validator.validate(merged(defaults, values))


def test_helm_reads_the_schema(helm: Path) -> None:
    done = subprocess.run(
        [helm, "template", "x", CHART, "--set", "replicaCount=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "additional properties 'replicaCount' not allowed" in done.stderr


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every described value of the schema."""
    for name, node in schema.get("properties", {}).items():
        yield f"{path}.{name}", node
        yield from nodes(node, f"{path}.{name}")


def test_every_value_is_described_and_every_object_closed(schema: dict[str, Any]) -> None:
    described = [*nodes(schema), *nodes({"properties": schema["definitions"]})]
    for path, node in described:
        assert "description" in node or path.count(".") == 1, path
        assert "properties" not in node or node["additionalProperties"] is False, path


def test_every_value_in_the_schema_has_a_default(
    schema: dict[str, Any], defaults: dict[str, Any]
) -> None:
    for path, _ in nodes(schema):
        names = path.removeprefix(".").split(".")
        if names[0] in ("global", "enabled"):
            continue
        value: Any = defaults
        for name in names:
            value = value[name]


def test_the_table_of_values_is_current() -> None:
    script = CHART.parent / "values_table.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_crd_in_the_chart_is_the_generated_one() -> None:
    generated = (ROOT / "crds" / "flowbinding.yaml").read_bytes()
    assert (CHART / "files" / "crd.yaml").read_bytes() == generated


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == version
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_chart_and_image_agree_on_the_user(defaults: dict[str, Any]) -> None:
    users = re.findall(r"^USER (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    context = defaults["podSecurityContext"]
    assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"] * 2


@pytest.mark.parametrize("name", ["image", "local"])
def test_images_run_what_the_tests_ran_with(name: str) -> None:
    def pins(file: str) -> set[str]:
        text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
        return set(re.findall(r"^([a-z0-9.-]+==\S+)", text, re.M))

    assert pins(f"{name}.lock") - pins("dev.lock") == set()


def test_the_build_backend_is_the_locked_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locked = (ROOT / "requirements" / "build.lock").read_text(encoding="utf-8").split()
    assert set(project["build-system"]["requires"]) <= set(locked)
