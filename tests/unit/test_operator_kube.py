"""The Kubernetes client: what it sends, and what it keeps of answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from flowbinding_operator.http import serving
from flowbinding_operator.kube import KubeClient

MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"namespace": "shop", "name": "risk-worker", "annotations": {"empty": ""}},
    "spec": {"replicas": 0, "paused": None, "template": {"spec": {"containers": [{"env": []}]}}},
}


class Server:
    """An API server that lists two pages of Deployments, and gives back what is applied."""

    def __init__(self) -> None:
        self.app = web.Application()
        self.app.router.add_get("/{path:.*}", self._list)
        self.app.router.add_patch("/{path:.*}", self._patch)
        self.tokens: list[str | None] = []

    async def _list(self, request: web.Request) -> web.Response:
        token = request.query.get("continue")
        self.tokens.append(token)
        owners = [{"manager": "one"}]
        items = [{"metadata": {"name": f"b{len(self.tokens)}", "managedFields": owners}}]
        more = {} if token else {"continue": "next"}
        return web.json_response({"metadata": more, "items": items})

    async def _patch(self, request: web.Request) -> web.Response:
        return web.json_response(await request.json())


def access(path: Path, port: int) -> None:
    """A kubeconfig that leads there."""
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "t"}}
    named = {"clusters": [cluster], "contexts": [context], "users": [user]}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "current-context": "x", **named}))


async def test_requests_hold_what_they_are_given_and_wait_for_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, path, threads = Server(), tmp_path / "config", list[object]()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    async with serving(server.app, "127.0.0.1", 0) as port:
        access(path, port)
        async with await KubeClient.connect() as kube:
            assert await kube.apply(MANIFEST) == MANIFEST
            loop = asyncio.get_running_loop()
            monkeypatch.setattr(loop, "run_in_executor", lambda *call: threads.append(call))
            whole = await kube.list("Deployment", "shop")
            names = await kube.list("Deployment", "shop", metadata_only=True)
    assert server.tokens == [None, "next"] * 2
    assert [item["metadata"]["name"] for item in [*whole, *names]] == ["b1", "b2", "b3", "b4"]
    assert all("managedFields" in item["metadata"] for item in whole)
    assert not any("managedFields" in item["metadata"] for item in names)
    assert threads == []
