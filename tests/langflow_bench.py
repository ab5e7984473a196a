"""Langflow clients on a server in memory, its recorded answers, and what they are refused with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import FlowRequest, ProcessingError

SAMPLES = Path(__file__).parent / "data" / "langflow"
REQUEST = FlowRequest("in-0-7", "hello", "s-1", {"Prompt-p": {"name": "Alice", "n": 1}})
KEY = "sk-secret-1"

Handler = Callable[[httpx.Request], httpx.Response]


def answer(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())["response"]
    return document


def make_flow(**fields: Any) -> Flow:
    base = {"backend": "Langflow", "url": "http://langflow:7860/", "id": "echo"}
    return Flow.model_validate({**base, **fields})


def client(files: Files, handler: Handler, **fields: Any) -> LangflowFlow:
    return LangflowFlow(make_flow(**fields), files, transport=MockServer(handler))


async def refused(flow: LangflowFlow, request: FlowRequest = REQUEST) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(request)
    await flow.close()
    assert KEY not in str(raised.value)
    assert KEY not in raised.value.response
    return raised.value


def secret_files(folder: Path) -> Files:
    """A key where the Secret of a binding would be."""
    secret = folder / "secrets" / "langflow"
    secret.mkdir(parents=True)
    (secret / "key").write_text(KEY + "\n")
    return Files(secrets=folder / "secrets", config_maps=folder / "config-maps")
