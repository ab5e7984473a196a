"""A stand-in of each product that has a preset, and a message that runs through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from flow_http_stand_ins import TOKEN, StandIn, dify, flowise, langgraph, n8n, openai
from flowbinding_api import parse_binding
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import FlowResult, Partition, ProcessingError, Record
from manifests import manifest

BEARER = {"auth": {"bearerTokenSecretRef": {"name": "server", "key": "token"}}}
API_KEY = {"apiKeySecretRef": {"name": "server", "key": "token"}}


class Product(NamedTuple):
    """A stand-in, and the fields of a binding that calls it."""

    make: Callable[[StandIn], web.Application]
    fields: dict[str, Any]


OPENAI = Product(openai, {"preset": "OpenAI", "id": "gpt-4o-mini", **BEARER})
FLOWISE = Product(flowise, {"preset": "Flowise", "id": "c-1", **BEARER})
DIFY = Product(dify, {"preset": "Dify", **BEARER})
LANGGRAPH = Product(langgraph, {"preset": "LangGraph", "id": "agent", **API_KEY})
N8N = Product(n8n, {"preset": "N8n", "id": "team/orders", **API_KEY})


def named(value: Any) -> str | None:
    return value.fields["preset"] if isinstance(value, Product) else None


async def run(
    files: Files, url: str, fields: dict[str, Any], http: Mapping[str, Any] = MappingProxyType({})
) -> FlowResult:
    """One message through the same steps as in a worker, from the manifest on."""
    flow = {name: value for name, value in fields.items() if name != "preset"}
    flow |= {"backend": "HTTP", "url": url, "http": {"preset": fields["preset"], **http}}
    binding = parse_binding(manifest(flow=flow))
    record = Record(Partition("in", 0), 7, b"customer-1", b'{"message": "hi"}', (), 0)
    request = Payload(binding).request(record)
    assert request is not None
    running = make_flow(binding, files)
    try:
        await running.start()
        return await running.run(request)
    finally:
        await running.close()


async def refused(
    files: Files, url: str, fields: dict[str, Any], http: Mapping[str, Any] = MappingProxyType({})
) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await run(files, url, fields, http)
    assert TOKEN not in str(raised.value)
    return raised.value


def token_files(folder: Path) -> Files:
    """The token of the stand-ins, and a wrong one."""
    (folder / "server").mkdir()
    (folder / "server" / "token").write_text(TOKEN + "\n")
    (folder / "server" / "wrong").write_text("sk-another")
    return Files(secrets=folder)
