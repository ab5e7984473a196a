"""A stand-in for a schema registry with Confluent's interface.

It answers as Apicurio 2.6.13 did at /apis/ccompat/v7, in what the worker asks for: statuses, codes
and members are those that it gave. The same test runs against a real one, too
(integration/test_worker_registry.py).
"""

from __future__ import annotations

import io
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import fastavro
import httpx
from aiohttp import web

Reference = dict[str, Any]


def framed(number: int, body: bytes) -> bytes:
    """A value as serializers write it."""
    return b"\0" + number.to_bytes(4, "big") + body


def encoded(schema: Any, value: Any) -> bytes:
    """A value in Avro, by a writer that is not ours."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


@dataclass
class Registry:
    """Knows the schemas that it was told.

    Attributes:
        answer: Gives another answer; None for the usual one.
        asked: Paths with queries, in order.
        seen: The headers of each request.
    """

    answer: Callable[[str], httpx.Response | None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    seen: list[httpx.Headers] = field(default_factory=list)
    _schemas: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(
        self,
        schema: Any,
        subject: str = "in-value",
        references: Sequence[Reference] = (),
        kind: str = "AVRO",
    ) -> int:
        """Register a version of a subject; returns its number."""
        text = schema if isinstance(schema, str) and kind != "AVRO" else json.dumps(schema)
        document: dict[str, Any] = {"schema": text, "references": list(references)}
        if kind != "AVRO":
            document["schemaType"] = kind
        self._schemas.append((subject, document))
        return len(self._schemas)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        self.asked.append(path)
        self.seen.append(request.headers)
        below = path.removeprefix("/apis/ccompat/v7").partition("?")[0]
        if request.method == "POST":
            return self._registered(below, json.loads(request.content))
        return self.answer(path) or self._usual(below)

    def _registered(self, path: str, given: dict[str, Any]) -> httpx.Response:
        subject = urllib.parse.unquote(path.split("/")[2])
        schema, references = json.loads(given["schema"]), given.get("references", ())
        return httpx.Response(200, json={"id": self.add(schema, subject, references)})

    def _usual(self, path: str) -> httpx.Response:
        match path.split("/"):
            case ["", "schemas", "ids", number]:
                if 0 < int(number) <= len(self._schemas):
                    return httpx.Response(200, json=self._schemas[int(number) - 1][1])
                text = f"No content with id/hash 'contentId-{number}' was found."
                return _refusal(404, 40403, text)
            case ["", "subjects", name, "versions", version]:
                subject = urllib.parse.unquote(name)
                found = [item for item in enumerate(self._schemas, 1) if item[1][0] == subject]
                if not found:
                    text = f"No artifact with ID '{subject}' in group 'null' was found."
                    return _refusal(404, 40401, text)
                if not 0 < int(version) <= len(found):
                    text = f"No version '{version}' found for artifact with ID '{subject}'."
                    return _refusal(404, 40402, text)
                found_number, (_, document) = found[int(version) - 1]
                about = {"id": found_number, "subject": subject, "version": int(version)}
                return httpx.Response(200, json={**about, **document})
        return _refusal(404, 0, f"RESTEASY003210: Could not find resource for full path: {path}")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Answer at an address, which is given."""

        async def handle(request: web.Request) -> web.Response:
            url = f"http://{request.host}{request.raw_path}"
            body, headers = await request.read(), dict(request.headers)
            answer = self(httpx.Request(request.method, url, headers=headers, content=body))
            return web.Response(
                status=answer.status_code, body=answer.content, content_type="application/json"
            )

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/apis/ccompat/v7"
        finally:
            await runner.cleanup()


def _refusal(status: int, code: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": message})
