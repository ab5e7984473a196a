"""From a binding to its workers' Pods. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flowbinding_api.base import (
    CONFIGMAPS_DIRECTORY,
    FLOW_VOLUME_DIRECTORY,
    SECRETS_DIRECTORY,
    SPOOL_DIRECTORY,
)
from flowbinding_api.binding import FlowBinding
from flowbinding_api.spec import Guarantee, Spool
from flowbinding_api.worker import PullPolicy, Resources, Worker
from flowbinding_operator.references import Kind, Reference

BINDING_LABEL = "flowbinding.io/binding"
JOB_LABEL = "batch.kubernetes.io/job-name"
"""Label of a Job's Pods, which Kubernetes sets."""
WORKER_APP = "flowbinding-worker"
CONTAINER = "worker"
CONFIG_DIRECTORY = "/etc/flowbinding"
CONFIG_KEY = "binding.yaml"
HTTP_PORT = 8080
DRAIN_SECONDS = 15
"""What a worker needs beyond its longest run: to commit and to leave its group."""
SPOOL_SLACK_BYTES = 16 * 1024 * 1024
"""Of the spool's volume, for what the file system needs itself: a Pod that fills an emptyDir beyond
its limit is evicted."""
WORKER_USER = 65532
"""User and group of the image."""
STARTUP_SECONDS = 180
"""lfx, the engine of Local flows, takes up to a minute to import on a busy node."""

NO_RESOURCES = Resources()

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a worker gets when its binding does not say."""

    image: str
    image_pull_policy: PullPolicy | None = None
    image_pull_secrets: tuple[str, ...] = ()
    resources: Resources = NO_RESOURCES


def selector_labels(binding: str) -> dict[str, str]:
    """Labels that select a binding's worker Pods. A Deployment's selector can never change."""
    return {"app.kubernetes.io/name": WORKER_APP, BINDING_LABEL: binding}


def grace_seconds(binding: FlowBinding) -> int:
    """Seconds between SIGTERM and SIGKILL: by default, enough for a run that has just begun."""
    own = binding.spec.worker.termination_grace_period_seconds
    return own or math.ceil(binding.spec.flow.timeout_seconds) + DRAIN_SECONDS


def pod(
    binding: FlowBinding,
    references: tuple[Reference, ...],
    defaults: Defaults,
    *,
    config_map: str,
) -> Manifest:
    """The specification of a worker's Pod.

    Args:
        binding: The resolved binding.
        references: What it refers to.
        defaults: For what the binding leaves open.
        config_map: Name of the ConfigMap with the manifest that the worker reads.
    """
    worker = binding.spec.worker
    volumes, mounts = _volumes(binding, references, config_map)
    pull_secrets = [item.name for item in worker.image_pull_secrets]
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(binding),
        "securityContext": _security(spool_of(binding)),
        "containers": [{**_container(binding, defaults), "volumeMounts": mounts}],
        "restartPolicy": "Never" if binding.spec.source.schedule else None,
        "volumes": volumes,
        "imagePullSecrets": [{"name": n} for n in pull_secrets or defaults.image_pull_secrets],
        "nodeSelector": worker.node_selector,
        "tolerations": [_plain(item) for item in worker.tolerations],
        "affinity": worker.affinity,
        "topologySpreadConstraints": [
            {
                **_plain(item),
                "labelSelector": {"matchLabels": selector_labels(binding.metadata.name)},
            }
            for item in worker.topology_spread_constraints
        ],
        "serviceAccountName": worker.service_account_name,
    }
    return {key: value for key, value in spec.items() if value not in (None, [], {})}


def spool_of(binding: FlowBinding) -> Spool:
    """Where results and dead letters wait: there are dead letters without an output, too."""
    output = binding.spec.output
    if binding.spec.source.schedule is not None:
        # A Job's disk goes with it.
        return Spool(size_limit="0")
    if output is None:
        return Spool()
    # What is written in transactions waits in memory.
    exactly_once = output.guarantee is Guarantee.EXACTLY_ONCE
    return Spool(size_limit="0") if exactly_once else output.spool


def _security(spool: Spool) -> Manifest:
    context: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if spool.bytes and spool.storage_class_name is not None:
        # A new volume belongs to root; an emptyDir is open to all.
        context |= {"fsGroup": WORKER_USER, "fsGroupChangePolicy": "OnRootMismatch"}
    return context


def _container(binding: FlowBinding, defaults: Defaults) -> Manifest:
    worker, scheduled = binding.spec.worker, binding.spec.source.schedule is not None
    policy = worker.image_pull_policy or defaults.image_pull_policy
    own = worker.resources
    resources = _plain(own if own.requests or own.limits else defaults.resources)
    container: Manifest = {
        "name": CONTAINER,
        "image": worker.image or defaults.image,
        "imagePullPolicy": policy.value if policy else None,
        "command": ["flowbinding-worker", "run", *(["--once"] if scheduled else [])],
        "env": _env(worker, _run_env() if scheduled else _server_env()),
        "resources": {key: value for key, value in resources.items() if value},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        **({} if scheduled else _serving()),
        # What a crashed worker said last shows up in the binding's conditions.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {key: value for key, value in container.items() if value not in (None, [], {})}


def _serving() -> Manifest:
    return {
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/livez", period=2, failures=STARTUP_SECONDS // 2),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "livenessProbe": _probe("/livez", period=10, failures=3),
    }


def _server_env() -> list[Manifest]:
    return [
        _field_env("POD_IP", "status.podIP"),
        # Only the Pod's own address: on a node without network namespaces, workers share a host.
        {"name": "FLOWBINDING_HTTP_ADDRESS", "value": f"$(POD_IP):{HTTP_PORT}"},
    ]


def _run_env() -> list[Manifest]:
    return [_field_env("FLOWBINDING_JOB", f"metadata.labels['{JOB_LABEL}']")]


def _env(worker: Worker, more: list[Manifest]) -> list[Manifest]:
    temporary = "/tmp"  # noqa: S108 - an emptyDir of this Pod
    own = [
        {"name": "FLOWBINDING_FILE", "value": f"{CONFIG_DIRECTORY}/{CONFIG_KEY}"},
        *more,
        _field_env("FLOWBINDING_INSTANCE", "metadata.name"),
        {"name": "HOME", "value": temporary},
    ]
    # The API server refuses a name that occurs twice; the user's word counts.
    return list({item["name"]: item for item in (*own, *map(_plain, worker.env))}.values())


def _field_env(name: str, path: str) -> Manifest:
    # apiVersion is a default of the API server's; without it here, every apply would be a change.
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _volumes(
    binding: FlowBinding, references: tuple[Reference, ...], config_map: str
) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts: the manifest, /tmp, the spool, and the referenced keys of each object."""
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": config_map}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this Pod
    ]
    spool = spool_of(binding)
    if spool.bytes:
        volumes.append({"name": "spool", **_spool_volume(spool)})
        mounts.append({"name": "spool", "mountPath": SPOOL_DIRECTORY})
    file = binding.spec.flow.file
    claim = file.persistent_volume_claim if file is not None else None
    if claim is not None:
        source = {"claimName": claim.claim_name, "readOnly": True}
        volumes.append({"name": "flow", "persistentVolumeClaim": source})
        mounts.append({"name": "flow", "mountPath": FLOW_VOLUME_DIRECTORY, "readOnly": True})
    mounted = [item for item in references if item.mounted]
    objects: list[tuple[Kind, str]] = sorted({(item.kind, item.name) for item in mounted})
    for index, (kind, of) in enumerate(objects):
        keys = sorted({item.key for item in mounted if (item.kind, item.name) == (kind, of)})
        items = [{"key": key, "path": key} for key in keys]
        # An object's name may be too long for a volume's.
        volume = f"{kind.lower()}-{index}"
        if kind == "Secret":
            directory, source = SECRETS_DIRECTORY, {"secret": {"secretName": of, "items": items}}
        else:
            directory, source = CONFIGMAPS_DIRECTORY, {"configMap": {"name": of, "items": items}}
        volumes.append({"name": volume, **source})
        mounts.append({"name": volume, "mountPath": f"{directory}/{of}", "readOnly": True})
    return volumes, mounts


def _spool_volume(spool: Spool) -> Manifest:
    size = str(spool.bytes + SPOOL_SLACK_BYTES)
    if spool.storage_class_name is None:
        return {"emptyDir": {"sizeLimit": size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": spool.storage_class_name,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _plain(model: Any) -> Manifest:
    dumped: Manifest = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
