"""What each preset makes of failures of its product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_http_stand_ins import stand_in
from flowbinding_worker.files import Files
from flowbinding_worker.ports import Failure
from preset_bench import DIFY, FLOWISE, LANGGRAPH, N8N, OPENAI, Product, named, refused, token_files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return token_files(tmp_path)


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
