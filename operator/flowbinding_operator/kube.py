"""Kubernetes, as little of it as the operator needs, behind a protocol that tests fake.

The official client's models cost memory and hide fields that they do not know, so objects are plain
data here and only the client's transport (authentication, TLS, connection pool) is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import client, config

from flowbinding_api.binding import API_VERSION, PLURAL
from flowbinding_api.errors import FlowBindingError

OPERATOR = "flowbinding-operator"
"""Field manager of the children."""

AUTOSCALER = "flowbinding-autoscaler"
"""Field manager of a Deployment's replicas."""

Object = Mapping[str, Any]

TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
NEVER = "1"
"""A version that no object has: etcd counts all writes, and its first is none to an object."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

PATHS = {
    "FlowBinding": (f"/apis/{API_VERSION}", PLURAL),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "Pod": ("/api/v1", "pods"),
    "CronJob": ("/apis/batch/v1", "cronjobs"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Event": ("/apis/events.k8s.io/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}


class KubeError(FlowBindingError):
    """The API server said no, or nothing.

    Args:
        message: What it said.
        status: HTTP status; 0 when there was no answer.
    """

    reason = "KubernetesError"

    def __init__(self, message: str, *, status: int = 0) -> None:
        # Not 500: that is what server-side apply answers to an unknown field or a bad quantity.
        super().__init__(message, retriable=status in (0, 409, 429, 502, 503, 504))
        self.status = status

    @property
    def ending(self) -> bool:
        """Whether the binding or its namespace is about to go, so that nothing is left to do."""
        return self.status == 404 or (self.status == 403 and "being terminated" in str(self))

    @property
    def refusal(self) -> bool:
        """Whether it is a no to tell the user: trying again alone does not help."""
        return not (self.retriable or self.ending)


class Kube(Protocol):
    """The Kubernetes API."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object; None when it does not exist."""

    async def list(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> Sequence[Object]:
        """All objects of a kind, in one namespace or in all.

        With `metadata_only` without spec, status, and who owns which field.
        """

    async def apply(
        self, manifest: Object, *, manager: str = OPERATOR, create: bool = False
    ) -> Object:
        """Server-side apply, taking over fields that others have set. Returns the result.

        Args:
            manifest: The object.
            manager: Who owns its fields from then on.
            create: Refuse it (409) when there is an object of that name.
        """

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete an object, if it is there and still has that uid; what it owns goes with it."""

    async def scale(self, namespace: str, name: str, replicas: int) -> Object:
        """Set a Deployment's replicas. Returns its Scale."""

    async def suspend(self, namespace: str, name: str) -> Object:
        """Have a CronJob begin no more runs. Returns the result."""

    async def patch_status(self, namespace: str, name: str, status: Object) -> Object:
        """Merge into a FlowBinding's status. Returns the result."""

    async def create_event(self, event: Object) -> None:
        """Record an Event."""


class KubeClient:
    """`Kube` over the official client. Use as an async context manager.

    Args:
        configuration: Where the API server is, and who we are.
        may_write: Asked before each write: an operator that no longer leads must not do any.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = client.ApiClient(configuration)
        self._may_write = may_write

    @classmethod
    async def connect(cls, may_write: Callable[[], bool] = lambda: True) -> KubeClient:
        """Use the service account of the Pod, else the kubeconfig.

        Args:
            may_write: Asked before each write.

        Raises:
            KubeError: When there is neither.
        """
        configuration = client.Configuration()
        # Otherwise each request waits for two threads, which look for proxies and a .netrc.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
        try:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        except config.ConfigException:
            try:
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    client_configuration=configuration
                )
            except (config.ConfigException, OSError) as error:
                raise KubeError(f"no service account and no usable kubeconfig: {error}") from None
        return cls(configuration, may_write)

    async def __aenter__(self) -> KubeClient:
        """Open."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """See `Kube`."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> Sequence[Object]:
        """See `Kube`."""
        accept = METADATA_ONLY if metadata_only else "application/json"
        query = [("labelSelector", selector)] if selector else []
        items: list[Object] = []
        while True:
            page = [*query, ("limit", "500")]
            answer = await self._request("GET", _path(kind, namespace), query=page, accept=accept)
            found = answer.get("items") or []
            for item in found if metadata_only else ():
                # Most of it, and of thousands that are compared, more than all else in memory.
                item["metadata"].pop("managedFields", None)
            items += found
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return items
            query = [*((k, v) for k, v in query if k != "continue"), ("continue", token)]

    async def apply(
        self, manifest: Object, *, manager: str = OPERATOR, create: bool = False
    ) -> Object:
        """See `Kube`."""
        metadata = manifest["metadata"]
        if create:
            manifest = {**manifest, "metadata": {**metadata, "resourceVersion": NEVER}}
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        query = [("fieldManager", manager), ("force", "true")]
        return await self._request("PATCH", path, manifest, query, APPLY)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """See `Kube`."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        path = _path(kind, namespace, name)
        try:
            await self._request("DELETE", path, body, content_type="application/json")
        except KubeError as error:
            # Gone, or another one by now.
            if error.status not in (404, 409):
                raise

    async def scale(self, namespace: str, name: str, replicas: int) -> Object:
        """See `Kube`."""
        path = _path("Deployment", namespace, name) + "/scale"
        body = {"spec": {"replicas": replicas}}
        return await self._request("PATCH", path, body, [("fieldManager", AUTOSCALER)], MERGE)

    async def suspend(self, namespace: str, name: str) -> Object:
        """See `Kube`."""
        path = _path("CronJob", namespace, name)
        body = {"spec": {"suspend": True}}
        return await self._request("PATCH", path, body, [("fieldManager", OPERATOR)], MERGE)

    async def patch_status(self, namespace: str, name: str, status: Object) -> Object:
        """See `Kube`."""
        path = _path("FlowBinding", namespace, name) + "/status"
        query = [("fieldManager", OPERATOR)]
        return await self._request("PATCH", path, {"status": status}, query, MERGE)

    async def create_event(self, event: Object) -> None:
        """See `Kube`."""
        await self.create(event)

    async def create(self, manifest: Object) -> Object:
        """Create an object; refused when it exists. Returns the result."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self._request("POST", path, manifest, content_type="application/json")

    async def replace(self, manifest: Object) -> Object:
        """Replace an object; refused unless it is still of the version given."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, manifest, content_type="application/json")

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "",
        accept: str = "application/json",
    ) -> dict[str, Any]:
        if method != "GET" and not self._may_write():
            raise KubeError(f"another operator leads by now ({method} {path})")
        headers = {"Accept": accept}
        if content_type:
            # Without it the client sends a strategic merge patch, which custom resources refuse.
            headers["Content-Type"] = content_type
        try:
            # Without the body, which is plain data already: it would only be copied.
            _, url, sent, *_ = await self._api.param_serialize(
                method,
                path,
                query_params=list(query),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(method, url, sent, body, _request_timeout=TIMEOUT)
            raw = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = str(error) or type(error).__name__
            raise KubeError(f"{text} ({method} {path})") from error
        if response.status >= 300:
            raise KubeError(f"{_message(raw)} ({method} {path})", status=response.status)
        answer: dict[str, Any] = json.loads(raw)
        return answer


def _path(kind: str, namespace: str | None, name: str = "") -> str:
    base, plural = PATHS[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{base}{scope}/{plural}" + (f"/{name}" if name else "")


def _message(raw: bytes) -> str:
    """The API server's own words."""
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw[:512].decode(errors="replace")
