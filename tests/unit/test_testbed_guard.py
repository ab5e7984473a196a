"""Which cluster the testbed uses, what it tells a shell, and what it does with kind."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from testbed import environment, guard, kind, kubeconfig, operator_install
from testbed.errors import TestbedError
from testbed.paths import Layout, default_root


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "bed")


def config(path: Path, context: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"current-context": context}))
    return path


def meant(layout: Layout, *paths: Path) -> str | None:
    return guard.kind_context(layout, {"KUBECONFIG": ":".join(map(str, paths))})


def test_without_kubeconfig_the_testbed_is_meant(layout: Layout) -> None:
    assert guard.kind_context(layout, {}) is None
    assert guard.kind_context(layout, {"KUBECONFIG": ""}) is None


def test_a_kind_cluster_is_used(layout: Layout, tmp_path: Path) -> None:
    assert meant(layout, config(tmp_path / "config", "kind-flowbinding")) == "kind-flowbinding"


def test_the_first_file_that_names_a_context_decides(layout: Layout, tmp_path: Path) -> None:
    files = [tmp_path / "missing", config(tmp_path / "a", ""), config(tmp_path / "b", "kind-x")]

    assert meant(layout, *files, config(tmp_path / "c", "production")) == "kind-x"


def test_the_testbed_s_own_kubeconfig_means_the_testbed(layout: Layout, tmp_path: Path) -> None:
    assert meant(layout, config(tmp_path / "other", kubeconfig.CONTEXT)) is None
    assert meant(layout, layout.kubeconfig) is None
    assert meant(layout, config(layout.kubeconfig, kubeconfig.CONTEXT)) is None
    assert meant(layout, config(layout.kubeconfig, "kind-x")) == "kind-x"


@pytest.mark.parametrize("context", ["production", "my-kind-cluster", "minikube", ""])
def test_any_other_cluster_is_refused(layout: Layout, tmp_path: Path, context: str) -> None:
    with pytest.raises(TestbedError, match="only a kind cluster") as caught:
        meant(layout, config(tmp_path / "config", context))

    assert caught.value.exit_code == 2


def test_a_kubeconfig_that_does_not_exist_is_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="no context"):
        meant(layout, tmp_path / "missing")


def test_the_testbed_s_folder_can_be_moved(tmp_path: Path) -> None:
    assert default_root({"FLOWBINDING_TESTBED": str(tmp_path)}) == tmp_path
    assert default_root({}).name == ".testbed"


def test_the_env_file_works_in_a_shell_and_for_a_reader_of_lines(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    text = environment.render("127.0.0.1:1", folder / "kubeconfig", folder / "bin")
    script = f"{text}sh -c 'echo \"$KUBECONFIG|$FLOWBINDING_KAFKA|$PATH\"'"
    done = subprocess.run(
        ["sh", "-euc", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True
    )

    scripts = sysconfig.get_path("scripts")
    assert done.stdout.strip() == f"{folder}/kubeconfig|127.0.0.1:1|{folder}/bin:/bin:{scripts}"
    values = dict(line.split("=", 1) for line in text.splitlines())
    assert values["FLOWBINDING_KAFKA"] == "127.0.0.1:1"


def test_without_kubernetes_the_env_file_has_no_kubeconfig() -> None:
    assert "KUBECONFIG" not in environment.render("127.0.0.1:1", None, None)


def test_a_token_replaces_the_user_and_nothing_else(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("certificate")
    source = kubeconfig.write(tmp_path / "a", "https://h:1", ca, user="tester", token="t1")
    copy = kubeconfig.with_token(source, tmp_path / "b", "operator", "t2")
    content = yaml.safe_load(copy.read_text())

    assert content["users"] == [{"name": "operator", "user": {"token": "t2"}}]
    assert content["clusters"] == yaml.safe_load(source.read_text())["clusters"]
    assert {path.stat().st_mode & 0o777 for path in (source, copy)} == {0o600}


class FakeRun:
    """Records commands and answers some of them."""

    def __init__(self, **answers: str) -> None:
        self.commands: list[list[str]] = []
        self._answers = answers

    def __call__(self, command: list[str]) -> str:
        self.commands.append(command)
        return self._answers.get(command[0], "")


def test_a_kind_cluster_is_made_once() -> None:
    first, second = FakeRun(kind="other\n"), FakeRun(kind=f"other\n{kind.CLUSTER}\n")
    kind.create(first)
    kind.create(second)

    made = ["kind", "create", "cluster", "--name", kind.CLUSTER, "--config", str(kind.CONFIG)]
    assert made in first.commands
    assert made not in second.commands


def test_kind_gets_the_image_and_kafka_in_the_named_cluster_only(tmp_path: Path) -> None:
    run = FakeRun()
    kind.prepare("kind-mine", tmp_path / "kubeconfig", lambda _note: None, run)

    assert [
        "kind",
        "load",
        "docker-image",
        "flowbinding/flowbinding:testbed",
        "--name",
        "mine",
    ] in (run.commands)
    used = [command for command in run.commands if command[0] == "kubectl"]
    assert used
    assert all(command[1:3] == ["--kubeconfig", f"{tmp_path}/kubeconfig"] for command in used)


def test_missing_programs_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(TestbedError, match="docker is not installed"):
        kind.create()
    with pytest.raises(TestbedError, match="kind is not installed"):
        kind.delete()


def test_kind_s_kafka_is_advertised_where_the_cluster_maps_it() -> None:
    cluster = yaml.safe_load(kind.CONFIG.read_text())
    [mapping] = cluster["nodes"][0]["extraPortMappings"]
    manifests = list(yaml.safe_load_all(kind.KAFKA.read_text()))
    [service] = [one for one in manifests if one["kind"] == "Service"]
    node_ports = [port.get("nodePort") for port in service["spec"]["ports"]]

    assert f"{mapping['listenAddress']}:{mapping['hostPort']}" == kind.HOST_BOOTSTRAP
    assert mapping["containerPort"] in node_ports
    for address in (f"HOST://{kind.HOST_BOOTSTRAP}", f"PODS://{kind.POD_BOOTSTRAP}"):
        assert address in kind.KAFKA.read_text()


def test_values_are_merged_as_helm_does() -> None:
    base = operator_install.defaults("kafka:9092")
    merged = operator_install.merged(base, {"image": {"tag": "x"}, "replicas": 2, "kafka": None})

    assert merged == {
        "image": {"repository": "flowbinding/flowbinding", "tag": "x"},
        "replicas": 2,
        "kafka": None,
    }
