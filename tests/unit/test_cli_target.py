"""From what a user names to a binding, its brokers and its Secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_fakes import FakeKube, file, live
from flowbinding_api.errors import FlowBindingError
from flowbinding_cli.kube import KubeClient, KubeError
from flowbinding_cli.target import WORKER_KEY, WORKER_SUFFIX, Finder, Target
from flowbinding_operator import desired
from flowbinding_operator.pod import CONFIG_KEY
from manifests import manifest


def find(kube: FakeKube, reference: str, **given: Any) -> Target:
    return Finder(lambda: kube, environment={}, **given).find(reference)


def test_the_names_are_the_operators() -> None:
    assert desired.worker_name("x") == f"x{WORKER_SUFFIX}"
    assert CONFIG_KEY == WORKER_KEY


def test_the_operators_default_is_read_from_the_workers_config_map() -> None:
    resolved = live(
        kafka={"bootstrapServers": "kafka:9092", "tls": {"enabled": True}}, paused=False
    )
    metadata = {"example-worker": {"binding.yaml": yaml.safe_dump(resolved)}}
    fake = FakeKube(
        live={"team/example": live()},
        config_maps={f"team/{name}": data for name, data in metadata.items()},
    )
    kafka = find(fake, "example").binding.spec.kafka
    assert kafka.bootstrap_servers == "kafka:9092"
    assert kafka.tls is not None
    assert kafka.tls.enabled


def test_what_the_user_says_wins() -> None:
    fake = FakeKube(live={"other/x": live("x", "other", kafka={"bootstrapServers": "a:1"})})
    found = find(fake, "x", namespace="other", bootstrap_servers="localhost:9092")
    assert found.binding.spec.kafka.bootstrap_servers == "localhost:9092"
    with pytest.raises(FlowBindingError, match="expected host:port"):
        find(fake, "x", namespace="other", bootstrap_servers="localhost")


@pytest.mark.parametrize("data", [None, {}, {"binding.yaml": "a: ["}, {"binding.yaml": "{}"}])
def test_without_any_address_the_user_is_asked_for_one(data: Mapping[str, str] | None) -> None:
    fake = FakeKube(live={"team/example": live()})
    if data is not None:
        fake.config_maps["team/example-worker"] = data
    with pytest.raises(FlowBindingError, match=r"team/example .* say --bootstrap-servers"):
        find(fake, "example").options()


SASL = {
    "bootstrapServers": "kafka:9092",
    "tls": {"enabled": False},
    "sasl": {
        "mechanism": "PLAIN",
        "usernameSecretRef": {"name": "kafka", "key": "user"},
        "passwordSecretRef": {"name": "kafka", "key": "password"},
    },
}


def test_secrets_come_from_the_cluster() -> None:
    fake = FakeKube(live={"team/example": live(kafka=SASL)})
    fake.secrets["team/kafka"] = {"user": b"me\n", "password": b"hidden"}
    given = find(fake, "example").options()
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("me", "hidden")
    del fake.secrets["team/kafka"]
    with pytest.raises(FlowBindingError, match="Secret kafka, key user: not in namespace team"):
        find(fake, "example").options()


def test_secrets_of_a_file_come_from_a_directory(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    for key in ("user", "password"):
        (tmp_path / "kafka" / key).write_text(key)

    def connect() -> FakeKube:
        raise KubeError("not needed")

    environment = {"FLOWBINDING_SECRETS": str(tmp_path), "FLOWBINDING__FLOW__ID": "overridden"}
    path = file(tmp_path, live(kafka=SASL))
    found = Finder(connect, environment=environment).find(path)
    assert found.options()["sasl_plain_password"] == "password"
    assert found.binding.spec.flow.id == "overridden"


def test_a_namespace_counts_for_files_that_name_none(tmp_path: Path) -> None:
    path = file(tmp_path, manifest({"metadata": {"namespace": None}}))
    assert find(FakeKube(), path, namespace="here").binding.key == "here/example"
    path = file(tmp_path, manifest())
    assert find(FakeKube(), path, namespace="here").binding.key == "default/example"


def test_a_file_of_several_bindings_is_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(
        FlowBindingError, match=r"expected one FlowBinding, found 2 \(example, example\)"
    ):
        find(FakeKube(), file(tmp_path, manifest(), manifest()))


def kubeconfig(folder: Path) -> str:
    """Two contexts for an API server that does not answer."""
    contexts = {"one": {"namespace": "first"}, "two": {}}
    path = folder / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "one",
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [
                    {"name": name, "context": {"cluster": "c", "user": "u", **own}}
                    for name, own in contexts.items()
                ],
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("context", "namespace"), [(None, "first"), ("one", "first"), ("two", "default")]
)
def test_the_context_names_the_namespace(
    context: str | None, namespace: str, tmp_path: Path
) -> None:
    assert KubeClient(context, kubeconfig(tmp_path)).namespace == namespace


def test_a_way_to_kubernetes_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match="no context three; it has one, two"):
        KubeClient("three", kubeconfig(tmp_path))
    with pytest.raises(KubeError, match="nowhere is not there; set KUBECONFIG or say --kubeconfig"):
        KubeClient(None, str(tmp_path / "nowhere"))
    with pytest.raises(KubeError, match="FlowBindings: no answer from the API server"):
        KubeClient(None, kubeconfig(tmp_path)).bindings("x")


@pytest.mark.parametrize("text", ["", "a: [", "[]", "text", "contexts: 1"])
def test_a_kubeconfig_that_is_none_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeError, match="cannot be used: ") as told:
        KubeClient(None, str(path))
    assert "\n" not in str(told.value)
