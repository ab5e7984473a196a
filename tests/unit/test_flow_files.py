"""Echo, the choice of a backend, and mounted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowbinding_api import parse_binding
from flowbinding_api.base import ConfigMapKeyRef, SecretKeyRef
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError
from manifests import manifest


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        ({"backend": "Echo"}, "EchoFlow"),
        ({"backend": "Langflow", "url": "http://langflow:7860", "id": "x"}, "LangflowFlow"),
        ({"backend": "Local", "file": {"path": "/none.json"}}, "LocalFlow"),
    ],
)
def test_a_flow_for_each_backend_without_touching_anything(
    tmp_path: Path, flow: dict[str, Any], name: str
) -> None:
    binding = parse_binding(manifest(flow=flow))
    made = make_flow(binding, Files(tmp_path / "none", tmp_path / "none"))
    assert type(made).__name__ == name


async def test_echo(tmp_path: Path) -> None:
    flow = make_flow(parse_binding(manifest()), Files(tmp_path, tmp_path))
    await flow.start()
    assert (await flow.run(FlowRequest("r", "hi", "s"))).value == "hi"
    await flow.close()


def test_files_are_read_anew(tmp_path: Path) -> None:
    files = Files(tmp_path / "s", tmp_path / "c")
    for folder in ("s", "c"):
        (tmp_path / folder / "name").mkdir(parents=True)
        (tmp_path / folder / "name" / "key").write_bytes(b"1")
    secret, config = SecretKeyRef(name="name", key="key"), ConfigMapKeyRef(name="name", key="key")
    assert (files.secret(secret), files.config_map(config)) == (b"1", b"1")
    (tmp_path / "s" / "name" / "key").write_bytes(b"2")
    (tmp_path / "c" / "name" / "key").write_bytes(b"3")
    assert (files.secret(secret), files.config_map(config)) == (b"2", b"3")


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    files = Files(tmp_path, tmp_path)
    with pytest.raises(ProcessingError) as raised:
        files.secret(SecretKeyRef(name="langflow", key="key"), "spec.flow.apiKeySecretRef")
    assert (raised.value.failure, raised.value.reason) == (Failure.CONFIGURATION, "SecretMissing")
    assert str(raised.value) == (
        "spec.flow.apiKeySecretRef: Secret langflow has no readable key key at"
        f" {tmp_path}/langflow/key (No such file or directory); create it in the binding's"
        " namespace"
    )
    with pytest.raises(ProcessingError) as raised:
        files.config_map(ConfigMapKeyRef(name="flows", key="a.json"))
    assert raised.value.reason == "ConfigMapMissing"
