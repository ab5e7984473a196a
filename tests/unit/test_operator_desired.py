"""What a worker's Deployment and ConfigMap say."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from flowbinding_api.binding import FlowBinding, parse_binding
from flowbinding_api.worker import PullPolicy, Resources
from flowbinding_operator import desired
from flowbinding_operator.plans import cluster_id
from flowbinding_operator.pod import Defaults, selector_labels
from flowbinding_operator.references import references
from operator_fakes import manifest

DEFAULTS = Defaults(
    image="registry/worker:1",
    image_pull_policy=PullPolicy.IF_NOT_PRESENT,
    image_pull_secrets=("pull",),
    resources=Resources(requests={"cpu": "100m"}),
)


def deployment(**spec: Any) -> dict[str, Any]:
    binding = parse_binding(manifest(**spec))
    return desired.deployment(binding, references(binding), "r1", DEFAULTS)


def pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = deployment(**spec)["spec"]["template"]["spec"]
    return found


def container(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod(**spec)["containers"][0]
    return found


def env(**spec: Any) -> dict[str, Any]:
    return {
        item["name"]: item.get("value") or item["valueFrom"] for item in container(**spec)["env"]
    }


def test_no_replicas_so_that_the_autoscaler_owns_them() -> None:
    assert "replicas" not in deployment()["spec"]


def test_owner_and_labels() -> None:
    made = deployment(worker={"podLabels": {"team": "x", "flowbinding.io/binding": "fake"}})
    metadata = made["metadata"]
    assert metadata["name"] == "risk-worker"
    assert metadata["ownerReferences"][0] == {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "name": "risk",
        "uid": "uid-risk",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["team"] == "x"
    assert labels["flowbinding.io/binding"] == "risk"
    assert labels["app.kubernetes.io/managed-by"] == "flowbinding-operator"


def test_restricted_pod_without_a_token() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    assert made["enableServiceLinks"] is False
    assert made["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert made["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_command_environment_and_probes() -> None:
    made = container()
    assert made["command"] == ["flowbinding-worker", "run"]
    names = env()
    assert names["FLOWBINDING_FILE"] == "/etc/flowbinding/binding.yaml"
    assert names["FLOWBINDING_HTTP_ADDRESS"] == "$(POD_IP):8080"
    assert names["POD_IP"]["fieldRef"]["fieldPath"] == "status.podIP"
    # $(POD_IP) is only replaced when POD_IP stands before it.
    order = [item["name"] for item in made["env"]]
    assert order.index("POD_IP") < order.index("FLOWBINDING_HTTP_ADDRESS")
    startup = made["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert made["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert made["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_the_users_environment_wins_without_repeating_a_name() -> None:
    given = [{"name": "HOME", "value": "/data"}, {"name": "A", "value": "b"}]
    made = container(worker={"env": given})
    names = [item["name"] for item in made["env"]]
    assert len(names) == len(set(names))
    assert env(worker={"env": given})["HOME"] == "/data"


@pytest.mark.parametrize(
    ("timeout", "own", "grace"), [(60, None, 75), (0.5, None, 16), (60, 300, 300)]
)
def test_grace_outlasts_a_run(timeout: float, own: int | None, grace: int) -> None:
    worker = {"terminationGracePeriodSeconds": own} if own else {}
    made = pod(flow={"backend": "Echo", "timeoutSeconds": timeout}, worker=worker)
    assert made["terminationGracePeriodSeconds"] == grace


def test_secrets_and_config_maps_are_mounted_with_only_the_keys_that_are_meant() -> None:
    ref = {"name": "creds", "key": "user"}
    made = pod(
        kafka={
            "bootstrapServers": "kafka:9092",
            "sasl": {
                "mechanism": "SCRAM-SHA-512",
                "usernameSecretRef": ref,
                "passwordSecretRef": {"name": "creds", "key": "password"},
            },
        },
        flow={
            "backend": "Local",
            "file": {"configMapKeyRef": {"name": "flows", "key": "risk.json"}},
            "apiKeySecretRef": {"name": "langflow", "key": "key"},
        },
        worker={"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "env", "key": "x"}}}]},
    )
    mounts = {m["mountPath"]: m["name"] for m in made["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in made["volumes"]}
    creds = volumes[mounts["/var/run/flowbinding/secrets/creds"]]["secret"]
    assert [item["key"] for item in creds["items"]] == ["password", "user"]
    flows = volumes[mounts["/var/run/flowbinding/configmaps/flows"]]["configMap"]
    assert flows["items"] == [{"key": "risk.json", "path": "risk.json"}]
    # The kubelet reads what environment variables refer to.
    assert "/var/run/flowbinding/secrets/env" not in mounts
    assert volumes[mounts["/tmp"]] == {"name": "tmp", "emptyDir": {}}


def spool_volume(**spec: Any) -> dict[str, Any] | None:
    made = pod(**spec)
    mounts = {m["mountPath"]: m["name"] for m in made["containers"][0]["volumeMounts"]}
    name = mounts.get("/var/run/flowbinding/spool")
    return next((v for v in made["volumes"] if v["name"] == name), None)


def test_results_wait_on_the_nodes_disk_in_a_volume_that_holds_a_little_more() -> None:
    assert spool_volume() == {"name": "spool", "emptyDir": {"sizeLimit": str((256 + 16) << 20)}}
    output = {"topic": "out", "spool": {"sizeLimit": "2Gi"}}
    assert spool_volume(output=output) == {
        "name": "spool",
        "emptyDir": {"sizeLimit": str((2048 + 16) << 20)},
    }


def test_results_wait_on_a_volume_of_a_storage_class() -> None:
    output = {"topic": "out", "spool": {"sizeLimit": "1G", "storageClassName": "fast"}}
    volume = spool_volume(output=output)
    assert volume is not None
    assert volume["ephemeral"]["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": str(10**9 + (16 << 20))}},
    }
    # The volume belongs to root, and the worker does not run as root.
    assert pod(output=output)["securityContext"]["fsGroup"] == 65532


def test_no_volume_without_a_spool() -> None:
    output = {"topic": "out", "spool": {"sizeLimit": "0", "storageClassName": "fast"}}
    assert spool_volume(output=output) is None
    assert "fsGroup" not in pod(output=output)["securityContext"]


def test_no_volume_where_results_wait_in_memory() -> None:
    spool = {"sizeLimit": "1G", "storageClassName": "fast"}
    output = {"topic": "out", "guarantee": "ExactlyOnce", "spool": spool}
    assert spool_volume(output=output) is None
    assert all("ephemeral" not in volume for volume in pod(output=output)["volumes"])
    assert "fsGroup" not in pod(output=output)["securityContext"]


def test_defaults_of_the_operator_fill_in() -> None:
    made = pod()
    assert made["imagePullSecrets"] == [{"name": "pull"}]
    first = made["containers"][0]
    assert first["image"] == "registry/worker:1"
    assert first["imagePullPolicy"] == "IfNotPresent"
    assert first["resources"] == {"requests": {"cpu": "100m"}}


def test_every_knob_of_the_worker_is_honoured() -> None:
    made = deployment(
        worker={
            "image": "mine:2",
            "imagePullPolicy": "Always",
            "imagePullSecrets": [{"name": "other"}],
            "resources": {"limits": {"memory": "2Gi"}},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [{"topologyKey": "zone"}],
            "serviceAccountName": "sa",
            "podAnnotations": {"a": "b", "prometheus.io/scrape": "false"},
        }
    )
    template = made["spec"]["template"]
    spec, first = template["spec"], template["spec"]["containers"][0]
    assert (first["image"], first["imagePullPolicy"]) == ("mine:2", "Always")
    assert first["resources"] == {"limits": {"memory": "2Gi"}}
    assert spec["imagePullSecrets"] == [{"name": "other"}]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["affinity"] == {"podAntiAffinity": {}}
    assert spec["serviceAccountName"] == "sa"
    constraint = spec["topologySpreadConstraints"][0]
    assert constraint["labelSelector"] == {"matchLabels": selector_labels("risk")}
    assert template["metadata"]["annotations"]["a"] == "b"
    assert template["metadata"]["annotations"]["prometheus.io/scrape"] == "false"


def test_the_worker_reads_the_binding_back() -> None:
    binding = parse_binding(manifest(deadLetter={"topic": "dead"}))
    text = desired.config_map(binding)["data"]["binding.yaml"]
    document = yaml.safe_load(text)
    again: FlowBinding = parse_binding(document)
    assert again.spec.dead_letter.topic == "dead"
    assert again.consumer_group == "shop.risk"
    assert document["metadata"] == {"name": "risk", "namespace": "shop"}


def _template(**spec: Any) -> str:
    return json.dumps(deployment(**spec)["spec"]["template"])


def test_what_rolls_the_pods_and_what_does_not() -> None:
    base = _template()
    assert _template(paused=True) == base
    assert _template(scaling={"maxReplicas": 50}) == base
    assert _template(concurrency={"perReplica": 3}) != base
    assert _template(source={"topic": "other"}) != base
    binding = parse_binding(manifest())
    changed = desired.deployment(binding, (), "r2", DEFAULTS)
    assert json.dumps(changed["spec"]["template"]) != base


def test_what_proves_who_asks_is_mounted_and_a_change_rolls_nothing() -> None:
    def ref(key: str) -> dict[str, str]:
        return {"name": "flows", "key": key}

    oauth = {
        "tokenUrl": "https://idp/token",
        "clientIdSecretRef": ref("id"),
        "clientSecretSecretRef": ref("secret"),
    }
    flow = {
        "backend": "HTTP",
        "url": "https://flows",
        "auth": {"oauth2": oauth},
        "tls": {
            "caSecretRef": ref("ca.crt"),
            "certificateSecretRef": ref("tls.crt"),
            "keySecretRef": ref("tls.key"),
        },
    }
    variables = {"TOKEN": {"secretKeyRef": ref("token")}, "CITY": {"value": "Bonn"}}
    langflow = {"backend": "Langflow", "url": "http://langflow", "globalVariables": variables}
    (token,) = references(parse_binding(manifest(flow=langflow)))
    assert (token.key, token.mounted, token.reloaded) == ("token", True, True)
    assert token.field == "spec.flow.globalVariables.TOKEN.secretKeyRef"
    found = references(parse_binding(manifest(flow=flow)))
    assert {item.key for item in found if item.mounted and item.reloaded} == {
        *("id", "secret", "ca.crt", "tls.crt", "tls.key")
    }
    made = pod(flow=flow)
    volume = next(v["secret"] for v in made["volumes"] if "secret" in v)
    assert [item["key"] for item in volume["items"]] == [
        *("ca.crt", "id", "secret", "tls.crt", "tls.key")
    ]


def test_secrets_of_a_schema_registry_are_the_worker_s_alone() -> None:
    def kafka(key: str) -> dict[str, Any]:
        token = {"bearerTokenSecretRef": {"name": "registry", "key": key}}
        return {"schemaRegistry": {"url": "https://registry:8081", "auth": token}}

    one, other = (parse_binding(manifest(kafka=kafka(key))) for key in ("token", "other"))
    (token,) = references(one)
    assert token.field == "spec.kafka.schemaRegistry.auth.bearerTokenSecretRef"
    assert (token.mounted, token.reloaded, token.of_kafka) == (True, True, False)
    # Bindings that differ in it share a client of the brokers.
    assert cluster_id(one.spec.kafka, {}) == cluster_id(other.spec.kafka, {})


def test_the_volume_of_a_flow_file_is_mounted_read_only() -> None:
    claim = {"claimName": "flows", "path": "risk/flow.json"}
    made = pod(flow={"backend": "Local", "file": {"persistentVolumeClaim": claim}})
    assert {
        "name": "flow",
        "persistentVolumeClaim": {"claimName": "flows", "readOnly": True},
    } in made["volumes"]
    mount = {"name": "flow", "mountPath": "/var/run/flowbinding/flow", "readOnly": True}
    assert mount in made["containers"][0]["volumeMounts"]
