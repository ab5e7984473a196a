"""Each preset against a stand-in that follows the product's public API: requests and failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml
from aiohttp import web

from flow_http_stand_ins import TOKEN, StandIn, dify, flowise, langgraph, n8n, openai, stand_in
from flowbinding_api import parse_binding
from flowbinding_api.flow_http import Preset
from flowbinding_api.presets import PRESETS, resolved
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import (
    Failure,
    FlowResult,
    Partition,
    ProcessingError,
    Record,
    Tokens,
)
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


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "token").write_text(TOKEN + "\n")
    (tmp_path / "server" / "wrong").write_text("sk-another")
    return Files(secrets=tmp_path)


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


@pytest.mark.parametrize(
    ("product", "answer", "tokens", "asked"),
    [
        (
            OPENAI,
            "hi",
            Tokens(9, 12),
            {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
        ),
        (
            FLOWISE,
            "hi",
            None,
            {
                "question": "hi",
                "streaming": False,
                "overrideConfig": {"sessionId": "customer-1"},
            },
        ),
        (
            DIFY,
            "hi",
            Tokens(3, 4),
            {"inputs": {}, "query": "hi", "response_mode": "blocking", "user": "customer-1"},
        ),
        (
            LANGGRAPH,
            "hi",
            None,
            {
                "assistant_id": "agent",
                "input": {"messages": [{"role": "user", "content": "hi"}]},
            },
        ),
        (N8N, {"output": "hi"}, None, {"chatInput": "hi", "sessionId": "customer-1"}),
    ],
    ids=named,
)
async def test_a_run(
    files: Files,
    product: Product,
    answer: Any,
    tokens: Tokens | None,
    asked: dict[str, Any],
) -> None:
    make, fields = product
    async with stand_in(make) as server:
        result = await run(files, server.url, fields)
    assert (result.value, result.tokens) == (answer, tokens)
    assert server.bodies == [asked]


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_with_and_without_its_version(files: Files, base: str) -> None:
    make, fields = OPENAI
    async with stand_in(make) as server:
        assert (await run(files, server.url + base, fields)).value == "hi"


async def test_a_users_keys_are_added_to_the_body(files: Files) -> None:
    make, fields = OPENAI
    body = {
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "Answer {{ key }} briefly."},
            {"role": "user", "content": "{{ input }}"},
        ],
    }
    async with stand_in(make) as server:
        await run(files, server.url, fields, {"body": body})
    assert server.bodies == [
        {
            "model": "gpt-4o-mini",
            "temperature": 0,
            "messages": [
                {"role": "system", "content": "Answer customer-1 briefly."},
                {"role": "user", "content": "hi"},
            ],
        }
    ]


async def test_the_whole_answer_when_the_pointer_is_empty(files: Files) -> None:
    make, fields = LANGGRAPH
    async with stand_in(make) as server:
        result = await run(files, server.url, fields, {"text": ""})
    assert [message["type"] for message in result.value["messages"]] == ["human", "ai"]


Case = tuple[Product, int, Any, Failure, str, str]
FAILURES: list[Case] = [
    (
        OPENAI,
        429,
        {"error": {"message": "Rate limit reached for gpt-4o-mini. Please try again in 6.5s."}},
        Failure.THROTTLE,
        "FlowThrottled",
        "Rate limit reached for gpt-4o-mini",
    ),
    (
        OPENAI,
        400,
        {
            "error": {
                "message": "This model's maximum context length is 128000 tokens.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
        Failure.POISON,
        "RequestRefused",
        "maximum context length",
    ),
    (
        OPENAI,
        400,
        {"error": {"message": "Unsupported parameter.", "code": "unsupported_parameter"}},
        Failure.CONFIGURATION,
        "FlowMisconfigured",
        "check spec.flow.http",
    ),
    (
        OPENAI,
        500,
        {"error": {"message": "The server had an error.", "type": "server_error"}},
        Failure.TRANSIENT,
        "FlowFailing",
        "The server had an error.",
    ),
    (
        OPENAI,
        503,
        {"error": {"message": "The engine is currently overloaded", "type": "server_error"}},
        Failure.THROTTLE,
        "FlowThrottled",
        "overloaded",
    ),
    (
        OPENAI,
        200,
        {"error": {"message": "Upstream failed", "code": 502}, "choices": []},
        Failure.TRANSIENT,
        "FlowFailing",
        "Upstream failed",
    ),
    (
        OPENAI,
        200,
        {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "No."}}]},
        Failure.POISON,
        "NoAnswer",
        "nothing at /choices/0/message/content of the answer, an object with choices",
    ),
    (
        FLOWISE,
        500,
        {
            "statusCode": 500,
            "success": False,
            "message": "Error: predictionsServices.buildChatflow - 429 Rate limit reached",
            "stack": {},
        },
        Failure.THROTTLE,
        "FlowThrottled",
        "Rate limit reached",
    ),
    (
        FLOWISE,
        500,
        {"statusCode": 500, "success": False, "message": "Error: Chatflow x-1 not found"},
        Failure.CONFIGURATION,
        "FlowNotFound",
        "check spec.flow.url, spec.flow.id and spec.flow.http.path",
    ),
    (
        FLOWISE,
        500,
        {"statusCode": 500, "success": False, "message": "Error: ended with an exception"},
        Failure.TRANSIENT,
        "FlowFailing",
        "ended with an exception",
    ),
    (
        DIFY,
        400,
        {"code": "provider_quota_exceeded", "message": "Quota of the model", "status": 400},
        Failure.THROTTLE,
        "FlowThrottled",
        "Quota of the model",
    ),
    (
        DIFY,
        400,
        {"code": "app_unavailable", "message": "App unavailable", "status": 400},
        Failure.CONFIGURATION,
        "FlowMisconfigured",
        "App unavailable",
    ),
    (
        DIFY,
        400,
        {
            "code": "invalid_param",
            "message": "Agent Chat App does not support blocking mode",
            "status": 400,
        },
        Failure.CONFIGURATION,
        "FlowMisconfigured",
        "does not support blocking mode",
    ),
    (
        DIFY,
        400,
        {"code": "completion_request_error", "message": "Connection error.", "status": 400},
        Failure.TRANSIENT,
        "FlowFailing",
        "Connection error.",
    ),
    (
        DIFY,
        400,
        {"code": "invalid_param", "message": "query is too long", "status": 400},
        Failure.POISON,
        "RequestRefused",
        "query is too long",
    ),
    # What a failure quotes of the message says nothing about the binding.
    (
        DIFY,
        400,
        {"code": "invalid_param", "message": "no number: 'app_unavailable'", "status": 400},
        Failure.POISON,
        "RequestRefused",
        "no number",
    ),
    (
        OPENAI,
        400,
        {
            "error": {"message": "Invalid value.", "code": "invalid_value"},
            "input": "model_not_found: unsupported_parameter",
        },
        Failure.POISON,
        "RequestRefused",
        "Invalid value.",
    ),
    (
        FLOWISE,
        400,
        {"message": "Error: Invalid input", "input": "flow of tears not found"},
        Failure.POISON,
        "RequestRefused",
        "Invalid input",
    ),
    (
        DIFY,
        500,
        {"code": "internal_server_error", "message": "Internal error", "status": 500},
        Failure.TRANSIENT,
        "FlowFailing",
        "Internal error",
    ),
    (
        LANGGRAPH,
        200,
        {"__error__": {"error": "ValueError", "message": "no such tool"}},
        Failure.TRANSIENT,
        "FlowFailing",
        "ValueError: no such tool",
    ),
    (
        LANGGRAPH,
        422,
        {"detail": [{"loc": ["body"], "msg": "Field required", "type": "missing"}]},
        Failure.POISON,
        "RequestRefused",
        "Field required",
    ),
    (
        LANGGRAPH,
        409,
        {"detail": "Thread is already running a task."},
        Failure.TRANSIENT,
        "FlowFailing",
        "already running",
    ),
    (
        N8N,
        500,
        {"code": 0, "message": "Workflow Webhook Error: Workflow could not be started!"},
        Failure.TRANSIENT,
        "FlowFailing",
        "Workflow could not be started!",
    ),
]


@pytest.mark.parametrize(
    ("product", "status", "body", "failure", "reason", "said"),
    FAILURES,
    ids=[f"{case[0].fields['preset']}-{case[1]}-{case[5]}" for case in FAILURES],
)
async def test_what_goes_wrong(
    files: Files,
    product: Product,
    status: int,
    body: Any,
    failure: Failure,
    reason: str,
    said: str,
) -> None:
    make, fields = product
    async with stand_in(make) as server:
        server.misbehave(status, body)
        error = await refused(files, server.url, fields)
    assert (error.failure, error.reason, error.status or status) == (failure, reason, status)
    assert said in str(error)


async def test_a_limit_says_when_to_come_back(files: Files) -> None:
    make, fields = OPENAI
    async with stand_in(make) as server:
        server.misbehave(429, {"error": {"message": "Slow down"}}, **{"Retry-After": "20"})
        error = await refused(files, server.url, fields)
        assert (error.failure, error.retry_after_seconds) == (Failure.THROTTLE, 20.0)
        server.misbehave(429, {"error": {"message": "Please try again in 6.5s."}})
        assert (await refused(files, server.url, fields)).retry_after_seconds == 6.5


@pytest.mark.parametrize("product", [OPENAI, FLOWISE, DIFY, LANGGRAPH, N8N], ids=named)
async def test_a_wrong_key_stops_all_and_says_where_to_look(files: Files, product: Product) -> None:
    make, fields = product
    (files.secrets / "server" / "token").write_text("sk-another")
    async with stand_in(make) as server:
        error = await refused(files, server.url, fields)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowUnauthorized")
    assert str(error).endswith("check spec.flow.auth and spec.flow.apiKeySecretRef")


@pytest.mark.parametrize(
    ("product", "said"),
    [
        (OPENAI, "The model `other` does not exist"),
        (FLOWISE, "Chatflow other not found"),
        (LANGGRAPH, "Assistant 'other' not found"),
        (N8N, 'The requested webhook "POST other" is not registered.'),
    ],
    ids=named,
)
async def test_a_flow_that_does_not_exist(files: Files, product: Product, said: str) -> None:
    make, fields = product
    async with stand_in(make) as server:
        error = await refused(files, server.url, {**fields, "id": "other"})
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowNotFound")
    assert said in str(error)


async def test_another_servers_address(files: Files) -> None:
    make, _ = N8N
    async with stand_in(make) as server:
        error = await refused(files, server.url, OPENAI.fields)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowNotFound")


def test_a_users_field_wins_over_the_presets() -> None:
    for preset, defaults in PRESETS.items():
        own = type(defaults).model_validate(
            {"preset": preset, "path": "/mine", "text": "/my/text", "method": "PUT"}
        )
        found = resolved(own, "http://server")
        assert (found.path, found.text, found.method) == ("/mine", "/my/text", "PUT")
        assert (found.body, found.error) == (defaults.body, defaults.error)


def documented() -> list[tuple[str, dict[str, Any]]]:
    """The manifests of the guide's chapter about other flow servers, by preset."""
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    chapter = guide.partition("## Other flow servers")[2].partition("\n## ")[0]
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)]
    flows = [block["flow"] for block in blocks if "flow" in block]
    return [(flow["http"].get("preset", ""), flow) for flow in flows]


def test_the_guide_has_every_preset_and_nothing_that_is_refused() -> None:
    assert {name for name, _ in documented()} == {"", *map(str, Preset)}
    for _, flow in documented():
        assert parse_binding(manifest(flow=flow)).spec.flow.runs


@pytest.mark.parametrize("product", [OPENAI, FLOWISE, DIFY, LANGGRAPH, N8N], ids=named)
async def test_the_guides_manifests_work(files: Files, product: Product) -> None:
    """As they are, but for the address, the id and the Secret, which are the stand-in's."""
    flow = next(flow for name, flow in documented() if name == product.fields["preset"])
    asked = {name: flow[name] for name in ("auth", "apiKeySecretRef") if name in flow}
    assert asked.keys() == {"auth", "apiKeySecretRef"} & product.fields.keys()
    async with stand_in(product.make) as server:
        result = await run(files, server.url, product.fields, flow["http"])
    assert result.value in ("hi", {"output": "hi"})


async def test_a_failed_workflow_of_dify_answers_200(files: Files) -> None:
    http = next(flow["http"] for _, flow in documented() if "status" in flow["http"])
    make, fields = DIFY
    async with stand_in(make) as server:
        done = {"data": {"status": "succeeded", "outputs": {"score": 7}, "error": None}}
        failed = {"data": {"status": "failed", "outputs": None, "error": "node 2: no credit"}}
        server.misbehave(200, done)
        server.misbehave(200, failed)
        http = {**http, "path": "/v1/chat-messages", "body": {"inputs": {"amount": "{{ offset }}"}}}
        assert (await run(files, server.url, fields, http)).value == {"score": 7}
        error = await refused(files, server.url, fields, http)
    assert server.bodies[0]["inputs"] == {"amount": 7}
    assert (error.failure, str(error)) == (
        Failure.TRANSIENT,
        "the run failed: node 2: no credit",
    )
