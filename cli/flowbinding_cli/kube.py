"""Kubernetes, as little of it as the commands need, behind a protocol that tests fake."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from flowbinding_api.binding import GROUP, PLURAL, VERSION
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason

Object = Mapping[str, Any]
POD_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
TIMEOUT = (5, 20)
"""Seconds to connect, and to wait for an answer."""


UNREADABLE = (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError)
"""What the client raises at a kubeconfig that is none."""


class KubeError(FlowBindingError):
    """The API server said no, or nothing, or there is no way to it."""

    reason = "KubernetesError"


class Kube(Protocol):
    """The Kubernetes API, with the rights of the user."""

    @property
    def namespace(self) -> str:
        """The namespace of the context."""

    def binding(self, namespace: str, name: str) -> Object | None:
        """One FlowBinding; None when it does not exist."""

    def bindings(self, namespace: str | None) -> Sequence[Object]:
        """All FlowBindings of a namespace, or of all."""

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap; None when it does not exist."""

    def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The data of a Secret; None when it does not exist."""

    def cron_job(self, namespace: str, name: str) -> Object | None:
        """A CronJob; None when it does not exist."""

    def job(self, namespace: str, name: str) -> Object | None:
        """A Job; None when it does not exist."""

    def create_job(self, namespace: str, manifest: Object) -> Object:
        """Create a Job. Returns it."""

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """The Pods that a label selector finds."""

    def log(self, namespace: str, pod: str) -> list[str]:
        """All lines that a Pod has logged; none while it has not started."""


class KubeClient:
    """`Kube` over the official client.

    Args:
        context: Of the kubeconfig; its current one when None.
        kubeconfig: Path; else KUBECONFIG, else ~/.kube/config, else the Pod's service account.

    Raises:
        KubeError: No usable configuration.
    """

    def __init__(self, context: str | None = None, kubeconfig: str | None = None) -> None:
        from kubernetes import client, config

        configuration: Any = client.Configuration()
        load: Any = config
        try:
            load.load_kube_config(kubeconfig, context, client_configuration=configuration)
            contexts, current = load.list_kube_config_contexts(kubeconfig)
            named = [item for item in contexts if item["name"] == context]
            chosen = named[0] if named else current
            self._namespace: str = chosen["context"].get("namespace") or "default"
        except (config.ConfigException, *UNREADABLE) as error:
            if context or kubeconfig or not _in_pod(configuration):
                raise KubeError(_unusable(context, kubeconfig, error)) from None
            self._namespace = Path(POD_NAMESPACE).read_text(encoding="utf-8").strip()
        self._api = api = client.ApiClient(configuration)
        self._objects, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._batch = client.BatchV1Api(api)

    @property
    def namespace(self) -> str:
        """See `Kube`."""
        return self._namespace

    def binding(self, namespace: str, name: str) -> Object | None:
        """See `Kube`."""
        found: Object | None = _asked(
            f"FlowBinding {namespace}/{name}",
            lambda: self._objects.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, _request_timeout=TIMEOUT
            ),
        )
        return found

    def bindings(self, namespace: str | None) -> Sequence[Object]:
        """See `Kube`."""
        objects = self._objects
        found = _asked(
            "FlowBindings",
            lambda: (
                objects.list_namespaced_custom_object(
                    GROUP, VERSION, namespace, PLURAL, _request_timeout=TIMEOUT
                )
                if namespace
                else objects.list_cluster_custom_object(
                    GROUP, VERSION, PLURAL, _request_timeout=TIMEOUT
                )
            ),
        )
        if found is None:
            raise KubeError("FlowBinding is not installed in this cluster (its CRD is not there)")
        items: Sequence[Object] = found["items"]
        return items

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """See `Kube`."""
        found = _asked(
            f"ConfigMap {namespace}/{name}",
            lambda: self._core.read_namespaced_config_map(
                name, namespace, _request_timeout=TIMEOUT
            ),
        )
        return None if found is None else found.data or {}

    def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """See `Kube`."""
        found = _asked(
            f"Secret {namespace}/{name}",
            lambda: self._core.read_namespaced_secret(name, namespace, _request_timeout=TIMEOUT),
        )
        if found is None:
            return None
        return {key: base64.b64decode(value) for key, value in (found.data or {}).items()}

    def cron_job(self, namespace: str, name: str) -> Object | None:
        """See `Kube`."""
        return self._plain(
            f"CronJob {namespace}/{name}",
            lambda: self._batch.read_namespaced_cron_job(name, namespace, _request_timeout=TIMEOUT),
        )

    def job(self, namespace: str, name: str) -> Object | None:
        """See `Kube`."""
        return self._plain(
            f"Job {namespace}/{name}",
            lambda: self._batch.read_namespaced_job(name, namespace, _request_timeout=TIMEOUT),
        )

    def create_job(self, namespace: str, manifest: Object) -> Object:
        """See `Kube`."""
        what = f"Job {namespace}/{manifest['metadata']['name']}"
        body: Any = manifest
        made = self._plain(
            what,
            lambda: self._batch.create_namespaced_job(namespace, body, _request_timeout=TIMEOUT),
        )
        if made is None:
            raise KubeError(f"{what}: there is no namespace {namespace}")
        return made

    def pods(self, namespace: str, selector: str) -> list[Object]:
        """See `Kube`."""
        found = self._plain(
            f"Pods in {namespace}",
            lambda: self._core.list_namespaced_pod(
                namespace, label_selector=selector, _request_timeout=TIMEOUT
            ),
        )
        return list((found or {}).get("items") or ())

    def log(self, namespace: str, pod: str) -> list[str]:
        """See `Kube`."""
        from kubernetes.client import ApiException

        try:
            text = self._core.read_namespaced_pod_log(pod, namespace, _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status in (400, 404):
                # Its container waits, or it has just gone.
                return []
            raise KubeError(f"log of Pod {namespace}/{pod}: {_message(error)}") from None
        return str(text).splitlines()

    def _plain(self, what: str, call: Callable[[], Any]) -> Object | None:
        """An object as the API server spells it; None when there is none."""
        api: Any = self._api
        found: Object | None = api.sanitize_for_serialization(_asked(what, call))
        return found


def _unusable(context: str | None, kubeconfig: str | None, error: Exception) -> str:
    """Why there is no way to a cluster, and what would be one."""
    from kubernetes import config

    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep)):
        return (
            f"no kubeconfig: {path} is not there; set KUBECONFIG or say --kubeconfig, or name a"
            " manifest (./x.yaml) where the command takes one"
        )
    load: Any = config
    try:
        names = [str(item["name"]) for item in load.list_kube_config_contexts(kubeconfig)[0]]
    except (config.ConfigException, *UNREADABLE):
        names = []
    if context is not None and names and context not in names:
        return f"kubeconfig {path}: no context {context}; it has {', '.join(names)}"
    return f"kubeconfig {path} cannot be used: {' '.join(str(error).split())}"


def _in_pod(configuration: Any) -> bool:
    """Use the service account of the Pod, if this is one."""
    from kubernetes import config

    load: Any = config
    try:
        load.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        return False
    return True


def _asked(what: str, call: Callable[[], Any]) -> Any:
    """The answer; None when there is no such object."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call()
    except ApiException as error:
        if error.status == 404:
            return None
        reason = Reason.KUBERNETES_FORBIDDEN if error.status in (401, 403) else None
        raise KubeError(f"{what}: {_message(error)}", reason=reason) from None
    except (HTTPError, OSError) as error:
        raise KubeError(f"{what}: no answer from the API server: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _message(error: Any) -> str:
    """The API server's own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or error.status)
