"""What the Helm chart renders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowbinding_api import load_binding
from flowbinding_operator.settings import Settings
from helmchart import CHART, DIGEST, EVERYTHING, MONITORING, NAMESPACE, VARIANTS, Chart, Rendered


@pytest.fixture
def chart(helm: Path, tmp_path: Path) -> Chart:
    return Chart(helm, tmp_path)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_lint_is_clean(chart: Chart, values: dict[str, Any]) -> None:
    done = chart.run("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_no_two_objects_share_an_identity(chart: Chart, values: dict[str, Any]) -> None:
    found = [
        (m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"])
        for m in chart.render(*MONITORING, **values).all
    ]
    assert len(found) == len(set(found))


# The Pod


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_pod_meets_the_restricted_standard(chart: Chart, values: dict[str, Any]) -> None:
    rendered = chart.render(**values)
    pod, container = rendered.pod["spec"], rendered.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert [list(volume) for volume in pod["volumes"]] == [["name", "emptyDir"]]
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_the_user_can_be_left_to_openshift(chart: Chart) -> None:
    nulls = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    context = chart.render(podSecurityContext=nulls).pod["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_one_operator_is_replaced_by_one_that_stands_by(chart: Chart) -> None:
    rendered = chart.render()
    spec = rendered.one("Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert rendered.environment["FLOWBINDING_OPERATOR_LEASE"] == f"{NAMESPACE}/flowbinding"
    # It would only keep the node from being drained.
    assert not rendered.of("PodDisruptionBudget")
    assert "affinity" not in rendered.pod["spec"]


def test_two_operators_prefer_two_nodes_and_go_one_at_a_time(chart: Chart) -> None:
    rendered = chart.render(replicas=2)
    budget, deployment = rendered.one("PodDisruptionBudget"), rendered.one("Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"] == {"maxUnavailable": 1, "selector": deployment["spec"]["selector"]}
    rules = rendered.pod["spec"]["affinity"]["podAntiAffinity"]
    ((rule,),) = rules.values()
    assert list(rules) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rule["podAffinityTerm"]["labelSelector"] == deployment["spec"]["selector"]
    own: dict[str, Any] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}
    assert chart.render(replicas=2, affinity=own).pod["spec"]["affinity"] == own


def test_the_selector_does_not_depend_on_labels_of_the_user(chart: Chart) -> None:
    labels = {"team": "flows", "app.kubernetes.io/component": "worker"}
    plain = chart.render().one("Deployment")["spec"]["selector"]
    labelled = chart.render(commonLabels=labels, podLabels=labels)
    assert labelled.one("Deployment")["spec"]["selector"] == plain
    assert plain["matchLabels"].items() <= labelled.pod["metadata"]["labels"].items()
    assert labelled.pod["metadata"]["labels"]["team"] == "flows"
    assert labelled.one("Service")["spec"]["selector"] == plain["matchLabels"]


def test_only_the_operator_mounts_its_token(chart: Chart) -> None:
    rendered = chart.render()
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert rendered.pod["spec"]["automountServiceAccountToken"] is True
    assert rendered.pod["spec"]["serviceAccountName"] == "flowbinding"


def test_a_service_account_of_the_user(chart: Chart) -> None:
    rendered = chart.render(serviceAccount={"create": False, "name": "mine"})
    assert not rendered.of("ServiceAccount")
    assert rendered.pod["spec"]["serviceAccountName"] == "mine"
    assert rendered.one("ClusterRoleBinding")["subjects"][0]["name"] == "mine"


def test_pod_settings_arrive(chart: Chart) -> None:
    rendered = chart.render(**EVERYTHING)
    spec = rendered.pod["spec"]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert spec[name] == EVERYTHING[name]
    assert spec["imagePullSecrets"] == EVERYTHING["imagePullSecrets"]
    assert rendered.pod["metadata"]["annotations"]["example.org/note"] == "yes"
    assert {"name": "TZ", "value": "Etc/UTC"} in rendered.container["env"]
    assert rendered.container["command"] == ["flowbinding-operator", "run"]


@pytest.mark.parametrize(
    ("image", "worker", "operator_image", "worker_image"),
    [
        ({}, {}, "flowbinding/flowbinding:0.1.0", "flowbinding/flowbinding:0.1.0"),
        ({"repository": "r.io/fb", "tag": "2"}, {}, "r.io/fb:2", "r.io/fb:2"),
        ({"digest": DIGEST}, {}, *(f"flowbinding/flowbinding@{DIGEST}",) * 2),
        ({"repository": "r.io/fb"}, {"tag": "2-local"}, "r.io/fb:0.1.0", "r.io/fb:2-local"),
        # Another tag or repository is another image, which the operator's digest does not name.
        (
            {"digest": DIGEST},
            {"tag": "2"},
            f"flowbinding/flowbinding@{DIGEST}",
            "flowbinding/flowbinding:2",
        ),
        (
            {},
            {"repository": "r.io/w", "digest": DIGEST},
            "flowbinding/flowbinding:0.1.0",
            f"r.io/w@{DIGEST}",
        ),
    ],
)
def test_images(
    chart: Chart,
    image: dict[str, str],
    worker: dict[str, str],
    operator_image: str,
    worker_image: str,
) -> None:
    rendered = chart.render(image=image, worker={"image": worker})
    assert rendered.container["image"] == operator_image
    assert rendered.environment["FLOWBINDING_OPERATOR_WORKER_IMAGE"] == worker_image


# Settings


def settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The operator's settings, made from the Pod's environment by the operator itself."""
    prefix = "FLOWBINDING_OPERATOR_"
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    known = {f"{prefix}{field.upper()}" for field in Settings.model_fields}
    for variable in rendered.container["env"]:
        assert not variable["name"].startswith(prefix) or variable["name"] in known
    for name, value in rendered.environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_the_defaults_are_the_operators_own(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(chart.render(), monkeypatch)
    assert found.http_host_port == ("10.1.2.3", 8080)
    assert found.worker_image == "flowbinding/flowbinding:0.1.0"
    assert found.worker_image_pull_policy == "IfNotPresent"
    assert found.log_format == "json"
    names = ("namespaces", "default_kafka", "worker_resources", "log_level")
    for name in (*names, "poll_seconds", "probe_seconds"):
        default = getattr(Settings.model_construct(), name)
        assert getattr(found, name) == default, name


def test_every_setting_arrives(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": 2}}
    rendered = chart.render(
        **EVERYTHING,
        watchNamespaces=["orders"],
        worker={"resources": resources},
        pollIntervalSeconds=0.5,
        probeIntervalSeconds=0,
        logLevel="debug",
        logFormat="console",
    )
    found = settings(rendered, monkeypatch)
    assert found.namespaces == ("orders",)
    assert (found.poll_seconds, found.probe_seconds) == (0.5, 0)
    assert (found.log_level, found.log_format) == ("debug", "console")
    assert found.worker_image_pull_secrets == ("registry",)
    assert found.worker_resources.limits == {"memory": "2Gi", "cpu": "2"}
    kafka = found.default_kafka.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert kafka == EVERYTHING["kafka"]


def test_the_downward_api_comes_before_its_use(chart: Chart) -> None:
    names = [variable["name"] for variable in chart.render().container["env"]]
    assert names.index("POD_IP") < names.index("FLOWBINDING_OPERATOR_HTTP_ADDRESS")


# The CRD


@pytest.mark.parametrize("keep", [True, False])
def test_the_crd_is_the_generated_one(chart: Chart, keep: bool) -> None:
    expected = yaml.safe_load((CHART.parents[1] / "crds" / "flowbinding.yaml").read_text())
    found = chart.render(crds={"keep": keep}).one("CustomResourceDefinition")
    assert found["spec"] == expected["spec"]
    assert found["metadata"]["name"] == expected["metadata"]["name"]
    annotations = found["metadata"].get("annotations")
    assert annotations == ({"helm.sh/resource-policy": "keep"} if keep else None)


def test_the_crd_can_be_left_out(chart: Chart) -> None:
    assert not chart.render(crds={"enabled": False}).of("CustomResourceDefinition")


# Metrics, network, everything else


def test_monitors_need_their_api(chart: Chart) -> None:
    without = chart.render(**EVERYTHING)
    assert not without.of("ServiceMonitor")
    assert not without.of("PodMonitor")
    rendered = chart.render(*MONITORING, **EVERYTHING)
    service, monitor = rendered.one("Service"), rendered.one("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    for kind in ("ServiceMonitor", "PodMonitor"):
        assert rendered.one(kind)["metadata"]["labels"]["release"] == "prometheus"


def test_worker_metrics_come_from_the_watched_namespaces(chart: Chart) -> None:
    on = {"podMonitor": {"enabled": True}}
    spec = chart.render(*MONITORING, metrics=on).one("PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"any": True}
    spec = chart.render(*MONITORING, metrics=on, watchNamespaces=["orders"]).one("PodMonitor")[
        "spec"
    ]
    assert spec["namespaceSelector"] == {"matchNames": ["orders"]}


def test_the_network_policy_restricts_egress_only_on_demand(chart: Chart) -> None:
    assert not chart.render().of("NetworkPolicy")
    spec = chart.render(networkPolicy={"enabled": True}).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    spec = chart.render(**EVERYTHING).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == EVERYTHING["networkPolicy"]["egress"]
    assert spec["ingress"][0]["from"] == EVERYTHING["networkPolicy"]["ingressFrom"]


def test_extra_objects_are_templates(chart: Chart) -> None:
    found = [m["metadata"]["name"] for m in chart.render(release="r", **EVERYTHING).of("ConfigMap")]
    assert found == ["r-a", "r-b"]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_of_ours_carries_the_labels(chart: Chart, values: dict[str, Any]) -> None:
    for manifest in chart.render(*MONITORING, **values).all:
        if manifest["kind"] == "ConfigMap":
            continue
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "flowbinding"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert values.get("commonLabels", {}).items() <= labels.items()


@pytest.mark.parametrize(
    ("release", "values", "expected"),
    [
        ("flowbinding", {}, "flowbinding"),
        ("prod", {}, "prod-flowbinding"),
        ("prod", {"nameOverride": "fb"}, "prod-fb"),
        ("prod", {"fullnameOverride": "flows"}, "flows"),
        ("r" * 53, {"nameOverride": "n" * 40}, f"{'r' * 53}-{'n' * 9}"),
    ],
)
def test_names(chart: Chart, release: str, values: dict[str, Any], expected: str) -> None:
    name = chart.render(release=release, **values).one("Deployment")["metadata"]["name"]
    assert name == expected


# NOTES.txt


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_example_in_the_notes_is_a_valid_binding(chart: Chart, values: dict[str, Any]) -> None:
    text = chart.notes(**values)
    example = text.partition("<<EOF\n")[2].partition("EOF")[0]
    binding = load_binding(example)
    namespaces = values.get("watchNamespaces") or ["default"]
    assert binding.metadata.namespace == namespaces[0]
    assert ("kafka.bootstrapServers is empty" in text) is ("kafka" not in values)
    assert ("monitoring.coreos.com/v1" in text) is ("tolerations" in values)
