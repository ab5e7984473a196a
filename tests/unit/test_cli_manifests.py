"""`flowbinding validate`, `config` and `flow sample`: manifests offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_fakes import file, run
from flowbinding_cli.manifests import Sample, sample_text
from manifests import manifest, wrong_manifests


@pytest.mark.parametrize("case", wrong_manifests(), ids=lambda case: case["name"])
def test_wrong_manifests_are_refused_offline(case: dict[str, Any], tmp_path: Path) -> None:
    path = file(tmp_path, manifest(case["patch"]))
    result = run("validate", path)
    assert result.exit_code == 1
    assert any(
        line.startswith(f"{path}: ") and case["field"] in line.replace("[0]", "")
        for line in result.stdout.splitlines()
    )


def test_every_problem_of_every_document_is_a_line(tmp_path: Path) -> None:
    wrong = manifest(source={"topic": "a b"}, colour="red")
    path = file(tmp_path, manifest(), wrong, {"apiVersion": "v1", "kind": "ConfigMap"}, "text")
    result = run("validate", path)
    assert result.exit_code == 1
    places = [line.rpartition(": ")[0] for line in result.stdout.splitlines()]
    assert {place.partition(":")[0] for place in places} == {f"{path}[2]", f"{path}[4]"}
    assert len(places) == 3


def test_valid_manifests_pass(tmp_path: Path) -> None:
    assert run("validate", file(tmp_path, manifest(), manifest())).exit_code == 0
    assert run("validate", "-", stdin=yaml.safe_dump(manifest())).exit_code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: FlowBindin\napiVersion: flowbinding.io/v1alpha1\n", "kind"),
        ("apiVersion: flowbinding.io/v1\nkind: FlowBinding\n", "apiVersion"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_meant_as_a_binding_is_checked(text: str, says: str) -> None:
    result = run("validate", "-", stdin=text)
    assert result.exit_code == 1
    assert says in result.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a: [", "line 1, column 5: while parsing a flow node, expected the node content"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: \x01", "unacceptable character"),
        (b"a: 2026-13-01", "month must be in 1..12"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(text: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text)
    result = run("validate", str(path))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}: not valid YAML: ")
    assert says in result.stdout
    assert result.stdout.count("\n") == 1


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    for arguments, stdin in (
        (("validate", str(tmp_path / "x.yaml")), b""),
        (("validate", "-"), b"\xff"),
    ):
        result = run(*arguments, stdin=stdin)
        assert result.exit_code == 1
        assert result.stderr.endswith(": not UTF-8\n")


def test_nothing_to_validate_is_no_success(tmp_path: Path) -> None:
    result = run("validate", file(tmp_path, {"apiVersion": "v1", "kind": "ConfigMap"}))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no FlowBinding in /")


def test_a_missing_file_is_one_sentence() -> None:
    result = run("validate", "/no/such/file.yaml")
    assert result.exit_code == 1
    assert result.stderr == "error: /no/such/file.yaml: No such file or directory\n"


@pytest.mark.parametrize("which", Sample)
def test_samples_are_valid(which: Sample) -> None:
    printed = run("flow", "sample", which.value).stdout
    assert printed == sample_text(which)
    assert run("validate", "-", stdin=printed).exit_code == 0


@pytest.mark.parametrize("which", Sample)
def test_sample_flows_are_langflows(which: Sample) -> None:
    flow = json.loads(run("flow", "sample", which.value, "--flow-json").stdout)
    assert flow["endpoint_name"] == f"support-{which.value}"
    ids = {node["id"] for node in flow["data"]["nodes"]}
    assert ids >= {"ChatInput-in", "ChatOutput-out"}
    assert {
        end for edge in flow["data"]["edges"] for end in (edge["source"], edge["target"])
    } == ids


def test_config_shows_defaults_and_hides_secrets(tmp_path: Path) -> None:
    path = file(tmp_path, manifest(flow={"tweaks": {"Model": {"api_key": "sk-1"}}}))
    result = run("config", path)
    assert result.exit_code == 0
    shown = yaml.safe_load(result.stdout)
    assert shown["spec"]["retry"]["maxAttempts"] == 5
    assert shown["spec"]["flow"]["tweaks"] == {"Model": {"api_key": "***"}}
    assert "sk-1" not in result.output


def test_an_invalid_file_names_every_problem(tmp_path: Path) -> None:
    path = file(tmp_path, manifest(source={"topic": "a b"}, colour="red"))
    result = run("config", path)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
