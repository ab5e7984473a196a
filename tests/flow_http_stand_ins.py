"""Stand-ins for products' servers, as strict about requests as their public APIs say they are.

Each refuses what the real one would refuse, with the real one's words, and answers with the input,
so that a test sees that everything arrived. `misbehave` has the next calls fail as they are told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "sk-stand-in"

Body = Mapping[str, Any]


@dataclass
class StandIn:
    """A running server.

    Attributes:
        url: Its address.
        failures: What the next calls answer, in order: status, body, headers.
        bodies: What was asked for.
    """

    url: str = ""
    failures: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def misbehave(self, status: int, body: Any, **headers: str) -> None:
        self.failures.append((status, body, headers))

    def failure(self) -> web.Response | None:
        if not self.failures:
            return None
        status, body, headers = self.failures.pop(0)
        return web.json_response(body, status=status, headers=headers)


def _openai_error(status: int, message: str, kind: str, code: str | None) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


def openai(server: StandIn) -> web.Application:
    """POST /v1/chat/completions."""

    async def complete(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            said = "Incorrect API key provided: sk-stand-***"
            return _openai_error(401, said, "invalid_request_error", "invalid_api_key")
        body = await _json(request)
        unknown = body.keys() - {"model", "messages", "temperature", "max_completion_tokens"}
        if unknown:
            said = f"Unrecognized request argument supplied: {', '.join(unknown)}"
            return _openai_error(400, said, "invalid_request_error", "unknown_parameter")
        if body["model"] != "gpt-4o-mini":
            said = f"The model `{body['model']}` does not exist or you do not have access to it."
            return _openai_error(404, said, "invalid_request_error", "model_not_found")
        for message in body["messages"]:
            assert set(message) == {"role", "content"}
            assert message["role"] in ("system", "user", "assistant")
            assert isinstance(message["content"], str)
        server.bodies.append(body)
        content = body["messages"][-1]["content"]
        choice = {"role": "assistant", "content": content, "refusal": None}
        return server.failure() or web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1700000000,
                "model": body["model"],
                "choices": [{"index": 0, "message": choice, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
            }
        )

    return _app("/v1/chat/completions", complete)


def flowise(server: StandIn) -> web.Application:
    """POST /api/v1/prediction/{chatflow}."""

    def failed(status: int, message: str) -> web.Response:
        body = {"statusCode": status, "success": False, "message": message, "stack": {}}
        return web.json_response(body, status=status)

    async def predict(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return failed(401, "Unauthorized")
        if request.match_info["id"] != "c-1":
            return failed(404, f"Chatflow {request.match_info['id']} not found")
        body = await _json(request)
        assert body.keys() <= {
            "question", "form", "streaming", "overrideConfig", "history", "uploads",
        }  # fmt: skip
        assert isinstance(body["question"], str)
        assert body["streaming"] is False
        session = body["overrideConfig"]["sessionId"]
        server.bodies.append(body)
        return server.failure() or web.json_response(
            {
                "text": body["question"],
                "question": body["question"],
                "chatId": "1",
                "chatMessageId": "2",
                "sessionId": session,
            }
        )

    return _app("/api/v1/prediction/{id}", predict)


def dify(server: StandIn) -> web.Application:
    """POST /v1/chat-messages."""

    def failed(status: int, code: str, message: str) -> web.Response:
        return web.json_response(
            {"code": code, "message": message, "status": status}, status=status
        )

    async def chat(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return failed(401, "unauthorized", "Access token is invalid")
        body = await _json(request)
        for name in ("inputs", "query", "user"):
            if not isinstance(body.get(name), dict if name == "inputs" else str):
                return failed(400, "invalid_param", f"{name} is required in the request body")
        if body.get("response_mode") != "blocking":
            return failed(400, "invalid_param", "this stand-in does not stream")
        if "conversation_id" in body:
            return failed(404, "not_found", "Conversation Not Exists.")
        server.bodies.append(body)
        return server.failure() or web.json_response(
            {
                "event": "message",
                "task_id": "t",
                "id": "m",
                "message_id": "m",
                "conversation_id": "c",
                "mode": "chat",
                "answer": body["query"],
                "metadata": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
                "created_at": 1705395332,
            }
        )

    return _app("/v1/chat-messages", chat)


def langgraph(server: StandIn) -> web.Application:
    """POST /runs/wait."""

    async def wait(request: web.Request) -> web.Response:
        if request.headers.get("x-api-key") != TOKEN:
            return web.json_response({"detail": "Missing authentication headers"}, status=403)
        body = await _json(request)
        unknown = body.keys() - {"assistant_id", "input", "config", "metadata", "context"}
        if unknown or not isinstance(body.get("input"), dict):
            where = {"loc": ["body", "input"], "msg": "Field required", "type": "missing"}
            return web.json_response({"detail": [where]}, status=422)
        if body["assistant_id"] != "agent":
            said = f"Assistant '{body['assistant_id']}' not found"
            return web.json_response({"detail": said}, status=404)
        asked = body["input"]["messages"]
        server.bodies.append(body)
        answer = {"type": "ai", "content": asked[-1]["content"], "tool_calls": [], "id": "run-1"}
        human = {"type": "human", "content": asked[-1]["content"], "id": "1"}
        return server.failure() or web.json_response({"messages": [human, answer]})

    return _app("/runs/wait", wait)


def n8n(server: StandIn) -> web.Application:
    """POST /webhook/{path}."""

    async def webhook(request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if request.headers.get("x-api-key") != TOKEN:
            return web.Response(status=403, text="Authorization data is wrong!")
        if path != "team/orders":
            said = f'The requested webhook "POST {path}" is not registered.'
            hint = "The workflow must be active for a production URL to run successfully."
            return web.json_response({"code": 404, "message": said, "hint": hint}, status=404)
        body = await _json(request)
        server.bodies.append(body)
        return server.failure() or web.json_response({"output": body["chatInput"]})

    return _app("/webhook/{path:.+}", webhook)


async def _json(request: web.Request) -> dict[str, Any]:
    assert request.content_type == "application/json"
    assert request.headers["X-Request-Id"]
    body = json.loads(await request.read())
    assert isinstance(body, dict)
    return body


def _app(path: str, handler: Callable[[web.Request], Any]) -> web.Application:
    app = web.Application()
    app.add_routes([web.post(path, handler)])
    return app


@asynccontextmanager
async def stand_in(make: Callable[[StandIn], web.Application]) -> AsyncIterator[StandIn]:
    """A server on a free port of this machine."""
    server = StandIn()
    async with serving(make(server)) as url:
        server.url = url
        yield server


@asynccontextmanager
async def serving(app: web.Application, ssl_context: Any = None) -> AsyncIterator[str]:
    """The address of an application that is served on a free port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        scheme = "https" if ssl_context else "http"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
