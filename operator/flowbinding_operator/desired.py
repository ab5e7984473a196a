"""From a binding to its worker's ConfigMap and Deployment, or CronJob. Pure.

None carries a replica count: that belongs to the autoscaler (see `children`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import yaml

from flowbinding_api.binding import API_VERSION, KIND, FlowBinding
from flowbinding_api.spec import OnTimeout
from flowbinding_operator.pod import (
    CONFIG_KEY,
    HTTP_PORT,
    STARTUP_SECONDS,
    Defaults,
    Manifest,
    pod,
    selector_labels,
)
from flowbinding_operator.references import Reference

CONFIG_HASH = "flowbinding.io/config-hash"
REFERENCES_HASH = "flowbinding.io/references-hash"
MANAGED_BY = "flowbinding-operator"

Maker = Callable[[FlowBinding, tuple[Reference, ...], str, Defaults], Manifest]
"""`deployment` or `cron_job`."""


def worker_name(binding: str) -> str:
    """Name of the Deployment or the CronJob, and of the ConfigMap."""
    return f"{binding}-worker"


def selector(binding: str) -> str:
    """`selector_labels` as text."""
    return ",".join(f"{key}={value}" for key, value in selector_labels(binding).items())


def worker_document(binding: FlowBinding) -> str:
    """The manifest that the worker reads.

    What the worker has no use for is left out, so that pausing, scaling or labelling a binding
    neither writes the ConfigMap nor rolls the Pods.
    """
    document = binding.document()
    document["metadata"] = {
        "name": binding.metadata.name,
        "namespace": binding.metadata.namespace,
    }
    for field in ("paused", "scaling", "provisioning"):
        document["spec"].pop(field, None)
    return _yaml(json.dumps(document, sort_keys=True))


@lru_cache(maxsize=64)
def _yaml(document: str) -> str:
    """A JSON document as YAML. Once for each reconcile, which needs it for two children."""
    # libyaml's, where it is: YAML in pure Python was half of what a reconcile cost.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(json.loads(document), Dumper=dumper, sort_keys=True, allow_unicode=True)
    return text


def config_map(binding: FlowBinding) -> Manifest:
    """The ConfigMap with the manifest that the worker reads."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(binding),
        "data": {CONFIG_KEY: worker_document(binding)},
    }


def deployment(
    binding: FlowBinding,
    references: tuple[Reference, ...],
    references_hash: str,
    defaults: Defaults,
) -> Manifest:
    """The worker Deployment.

    Args:
        binding: The resolved binding.
        references: What it refers to.
        references_hash: Changes when the contents of those do, and rolls the Pods: a worker reads
            its environment and its credentials for Kafka at start.
        defaults: For what the binding leaves open.
    """
    name = binding.metadata.name
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(binding),
        "spec": {
            "selector": {"matchLabels": selector_labels(name)},
            "revisionHistoryLimit": 3,
            # New workers join before old ones leave. Each Pod that comes or goes is one rebalance
            # either way, but like this a broken image or spec never stops the workers that run.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0},
            },
            "progressDeadlineSeconds": STARTUP_SECONDS + 120,
            "template": _template(binding, references, references_hash, defaults),
        },
    }


def cron_job(
    binding: FlowBinding,
    references: tuple[Reference, ...],
    references_hash: str,
    defaults: Defaults,
) -> Manifest:
    """The CronJob of a binding with a schedule; arguments as for `deployment`.

    It rests while there is nothing to run; Jobs can still be made from it by hand.
    """
    schedule, labels = binding.spec.source.schedule, _labels(binding.metadata.name)
    if schedule is None:
        raise ValueError(f"{binding.key} has no schedule")
    spec = {
        "schedule": schedule.cron,
        "timeZone": schedule.time_zone,
        "concurrencyPolicy": schedule.concurrency_policy.value,
        "startingDeadlineSeconds": schedule.starting_deadline_seconds,
        "successfulJobsHistoryLimit": schedule.successful_jobs_history_limit,
        "failedJobsHistoryLimit": schedule.failed_jobs_history_limit,
        "suspend": binding.spec.paused or not binding.spec.flow.runs,
        "jobTemplate": {
            "metadata": {"labels": labels},
            "spec": {
                # The worker tries again by itself, as spec.retry says.
                "backoffLimit": 0,
                **_on_disruption(binding),
                "template": _template(binding, references, references_hash, defaults),
            },
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(binding),
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def _on_disruption(binding: FlowBinding) -> Manifest:
    """A run whose node is drained is run again, unless its flow must not run twice."""
    if binding.spec.retry.on_timeout is OnTimeout.DEAD_LETTER:
        return {}
    drained = {"type": "DisruptionTarget", "status": "True"}
    return {"podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [drained]}]}}


def _template(
    binding: FlowBinding,
    references: tuple[Reference, ...],
    references_hash: str,
    defaults: Defaults,
) -> Manifest:
    """The Pod template of either kind."""
    worker, name = binding.spec.worker, binding.metadata.name
    hashes = {
        CONFIG_HASH: hashlib.sha256(worker_document(binding).encode()).hexdigest()[:16],
        REFERENCES_HASH: references_hash,
    }
    # A run serves no pages.
    scrape = {} if binding.spec.source.schedule else _scrape_annotations()
    return {
        "metadata": {
            "labels": {**worker.pod_labels, **_labels(name)},
            "annotations": {**scrape, **worker.pod_annotations, **hashes},
        },
        "spec": pod(binding, references, defaults, config_map=worker_name(name)),
    }


def content_hash(value: Any) -> str:
    """A short hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _labels(name: str) -> dict[str, str]:
    return {
        **selector_labels(name),
        # A label holds 63 characters and a binding's name at most 56.
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "flowbinding",
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }


def _metadata(binding: FlowBinding) -> Manifest:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": binding.metadata.name,
        "uid": binding.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": worker_name(binding.metadata.name),
        "namespace": binding.metadata.namespace,
        "labels": _labels(binding.metadata.name),
        "ownerReferences": [owner],
    }


def _scrape_annotations() -> dict[str, str]:
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(HTTP_PORT),
        "prometheus.io/path": "/metrics",
    }
