"""Flows that prove who they are, on servers in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.http import HttpFlow
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import FlowRequest, HttpParts

REQUEST = FlowRequest("in-0-7", "hi", "s-1", http=HttpParts("", {}, {"input": "hi"}))
LANGFLOW_ANSWER = {
    "outputs": [{"outputs": [{"component_id": "c", "results": {"message": {"text": "ok"}}}]}]
}
OAUTH = {
    "tokenUrl": "https://idp.example/token",
    "clientIdSecretRef": {"name": "idp", "key": "id"},
    "clientSecretSecretRef": {"name": "idp", "key": "secret"},
    "scopes": ["flows.run", "flows.read"],
    "audience": "https://flows.example",
}


def write(files: Files, key: str, content: str) -> None:
    (files.secrets / "idp" / key).write_text(content)


Handler = Callable[[httpx.Request], Any]
Backend = type[HttpFlow] | type[LangflowFlow]


def make(handler: Handler, files: Files, backend: Backend = HttpFlow, **fields: Any) -> Any:
    flow = {
        "backend": "HTTP" if backend is HttpFlow else "Langflow",
        "url": "https://flows.example",
        "id": "flow",
        **fields,
    }
    transport = MockServer(handler)
    return backend(Flow.model_validate(flow), files, transport=transport)


both = pytest.mark.parametrize("backend", [HttpFlow, LangflowFlow])


def idp_files(folder: Path) -> Files:
    """The contents of a Secret `idp`, and a Files on them."""
    place = folder / "idp"
    place.mkdir()
    contents = {
        "token": "bearer-token-1\n",
        "user": "alice\n",
        "password": "pa:ss wörd\n",
        "id": "client/1\n",
        "secret": "client secret+1\n",
        "key": "sk-of-a-gateway",
    }
    for name, content in contents.items():
        (place / name).write_text(content)
    return Files(secrets=folder)
