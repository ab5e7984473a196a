"""The worker's manifest and command line, without starting anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowbinding_api import InvalidBindingError
from flowbinding_api.masking import masked
from flowbinding_worker.main import WRONG_MANIFEST, run
from flowbinding_worker.manifest import read_manifest
from flowbinding_worker.settings import Run
from manifests import manifest

KAFKA = {"bootstrapServers": "kafka:9092"}


def write(folder: Path, **spec: Any) -> str:
    path = folder / "binding.yaml"
    path.write_text(yaml.safe_dump(manifest(**{"kafka": KAFKA, **spec})))
    return str(path)


def test_the_environment_wins(tmp_path: Path) -> None:
    found = read_manifest(write(tmp_path), {"FLOWBINDING__CONCURRENCY__PERREPLICA": "3"})
    assert found.spec.concurrency.per_replica == 3


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(manifest(kafka=KAFKA))))
    assert read_manifest("-", {}).key == "default/example"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "--file: cannot read"),
        (b"a: [", "not valid YAML"),
        (b"- 1", "expected one FlowBinding manifest"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InvalidBindingError, match=problem):
        read_manifest(str(path), {})


def test_brokers_are_required(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(yaml.safe_dump(manifest()))
    with pytest.raises(InvalidBindingError, match=r"spec\.kafka\.bootstrapServers: required"):
        read_manifest(str(path), {})


def test_what_may_be_secret_is_masked(tmp_path: Path) -> None:
    flow = {
        "backend": "Langflow",
        "url": "https://user:hunter2@langflow:7860/x",
        "id": "flow",
        "apiKeySecretRef": {"name": "langflow", "key": "api-key"},
        "tweaks": {"Model-1": {"api_key": "hunter2", "temperature": 0.2}},
    }
    worker = {"env": [{"name": "HTTPS_PROXY", "value": "http://me:hunter2@proxy"}]}
    shown = masked(read_manifest(write(tmp_path, flow=flow, worker=worker), {}))
    assert "hunter2" not in str(shown)
    assert shown["spec"]["flow"]["url"] == "https://***@langflow:7860/x"
    assert shown["spec"]["flow"]["apiKeySecretRef"] == {"name": "langflow", "key": "api-key"}
    assert shown["spec"]["flow"]["tweaks"]["Model-1"]["temperature"] == 0.2


def test_what_the_http_backend_sends_is_masked_where_it_may_be_secret(tmp_path: Path) -> None:
    flow = {
        "backend": "HTTP",
        "url": "https://flows",
        "http": {
            "headers": {"X-Tenant": "hunter2", "Cookie": "hunter2"},
            "body": {"api_key": "hunter2", "n": 1},
        },
        "auth": {
            "oauth2": {
                "tokenUrl": "https://idp/token?x=hunter2",
                "clientIdSecretRef": {"name": "idp", "key": "id"},
                "clientSecretSecretRef": {"name": "idp", "key": "secret"},
            }
        },
    }
    shown = masked(read_manifest(write(tmp_path, flow=flow), {}))
    assert "hunter2" not in str(shown)
    assert shown["spec"]["flow"]["http"]["body"]["n"] == 1
    assert shown["spec"]["flow"]["http"]["headers"].keys() == {"X-Tenant", "Cookie"}
    oauth = shown["spec"]["flow"]["auth"]["oauth2"]
    assert oauth["tokenUrl"] == "https://idp/token?***"
    assert oauth["clientSecretSecretRef"] == {"name": "idp", "key": "secret"}


@pytest.mark.parametrize(
    "tweaks",
    [
        {"ApiRequest-1": {"headers": [{"key": "Authorization", "value": "Bearer hunter2"}]}},
        {"Model-1": {"api_keys": ["hunter2"]}},
        {"Model-1": {"password": {"value": "hunter2"}}},
        {"Model-1": {"bearer": "hunter2"}},
        {"Model-1": {"url": "http://h/x?x-api-key=hunter2"}},
    ],
)
def test_secrets_in_tweaks_are_masked(tmp_path: Path, tweaks: dict[str, Any]) -> None:
    shown = masked(read_manifest(write(tmp_path, flow={"backend": "Echo", "tweaks": tweaks}), {}))
    assert "hunter2" not in str(shown)


def test_missing_brokers_are_named_beside_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(yaml.safe_dump(manifest(concurrency={"perReplica": 0})))
    with pytest.raises(InvalidBindingError) as error:
        read_manifest(str(path), {})
    assert {problem.path for problem in error.value.problems} == {
        "spec.concurrency.perReplica",
        "spec.kafka.bootstrapServers",
    }


def test_problems_go_to_standard_error_one_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, concurrency={"perReplica": 0}, colour="red")
    assert run(["run", "--file", path]) == WRONG_MANIFEST
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["spec.concurrency.perReplica", "spec.colour"]


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == WRONG_MANIFEST
    assert "run" in capsys.readouterr().err


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBINDING_HTTP_ADDRESS", "[::1]:9000")
    monkeypatch.setenv("FLOWBINDING_SECRETS", "/secrets")
    monkeypatch.setenv("FLOWBINDING_INSTANCE", "pod-1")
    found = Run()
    assert (found.http_address, found.secrets, found.instance) == (
        "[::1]:9000",
        Path("/secrets"),
        "pod-1",
    )


@pytest.mark.parametrize("address", ["8080", ":8080", "host:", "host:http", "host:70000"])
def test_addresses_are_checked(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--file", write(tmp_path), f"--http-address={address}"]
    assert run(arguments) == WRONG_MANIFEST
    assert "HOST:PORT" in capsys.readouterr().err
