"""The client of Langflow's run API: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowbinding_worker.files import Files
from flowbinding_worker.flows import http_exchange
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError
from langflow_bench import KEY, REQUEST, answer, client, make_flow, refused, secret_files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return secret_files(tmp_path)


async def test_what_is_sent(files: Files) -> None:
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=answer("run-echo-by-id"))

    flow = client(
        files,
        handler,
        apiKeySecretRef={"name": "langflow", "key": "key"},
        outputComponent="ChatOutput-out",
    )
    await flow.start()
    assert await flow.run(REQUEST) == FlowResult(
        "hello",
        run_id=answer("run-echo-by-id")["outputs"][0]["outputs"][0]["results"]["message"]["run_id"],
    )
    await flow.close()
    (request,) = sent
    assert request.method == "POST"
    assert str(request.url) == "http://langflow:7860/api/v1/run/echo?stream=false"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["x-request-id"] == "in-0-7"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "input_value": "hello",
        "input_type": "any",
        "output_type": "any",
        "session_id": "s-1",
        "tweaks": {"Prompt-p": {"name": "Alice", "n": 1}},
        "output_component": "ChatOutput-out",
    }


async def test_the_servers_path_and_another_header(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://proxy/ai/langflow/api/v1/run/my.flow~1?stream=false"
        assert request.headers["X-Token"] == KEY
        assert "x-api-key" not in request.headers
        return httpx.Response(200, json=answer("run-echo-by-id"))

    flow = client(
        files,
        handler,
        url="http://proxy/ai/langflow",
        id="my.flow~1",
        apiKeyHeader="X-Token",
        apiKeySecretRef={"name": "langflow", "key": "key"},
    )
    assert (await flow.run(REQUEST)).value == "hello"
    await flow.close()


async def test_a_new_key_works_at_once(files: Files) -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["x-api-key"])
        return httpx.Response(200, json=answer("run-echo-by-id"))

    flow = client(files, handler, apiKeySecretRef={"name": "langflow", "key": "key"})
    await flow.run(REQUEST)
    (files.secrets / "langflow" / "key").write_text("sk-2")
    await flow.run(REQUEST)
    await flow.close()
    assert keys == [KEY, "sk-2"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "SecretMissing"), ("", "FlowUnauthorized"), ("a\nb", "FlowUnauthorized")],
)
async def test_a_bad_secret_stops_start_and_run_until_repaired(
    files: Files, content: str | None, reason: str
) -> None:
    path = files.secrets / "langflow" / "key"
    path.unlink()
    if content is not None:
        path.write_text(content)
    flow = client(
        files,
        lambda request: httpx.Response(200, json=answer("run-echo-by-id")),
        apiKeySecretRef={"name": "langflow", "key": "key"},
    )
    for attempt in (flow.start, lambda: flow.run(REQUEST)):
        with pytest.raises(ProcessingError) as raised:
            await attempt()
        assert (raised.value.failure, raised.value.reason) == (Failure.CONFIGURATION, reason)
        assert "spec.flow.apiKeySecretRef" in str(raised.value)
    path.write_text(KEY)
    assert (await flow.run(REQUEST)).value == "hello"
    await flow.close()


@pytest.mark.parametrize(
    "request_",
    [
        FlowRequest("r", 5, "s"),  # type: ignore[arg-type]
        FlowRequest("r", "x", ""),
        FlowRequest("r", "x", None),  # type: ignore[arg-type]
        FlowRequest("r", "x", "s", "tweaks"),  # type: ignore[arg-type]
        FlowRequest("r", "x", "s", {"a": float("nan")}),
        FlowRequest("r", "x", "s", {"a": object()}),
    ],
)
async def test_what_langflow_would_silently_drop_is_not_sent(
    files: Files, request_: FlowRequest
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        pytest.fail("nothing may be sent")

    error = await refused(client(files, handler), request_)
    assert (error.failure, error.reason) == (Failure.POISON, "TemplateFailed")


async def test_half_a_surrogate_pair_is_sent_as_json_escapes_it(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert b'"\\ud800"' in request.content
        return httpx.Response(200, json=answer("run-echo-by-id"))

    flow = client(files, handler)
    await flow.run(FlowRequest("r", "\ud800", "s"))
    await flow.close()


async def test_redirects_are_not_followed(files: Files) -> None:
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(str(request.url))
        return httpx.Response(302, headers={"location": "/login"})

    error = await refused(client(files, handler))
    assert (error.failure, len(calls)) == (Failure.CONFIGURATION, 1)
    assert "redirects to /login" in str(error)


async def test_cookies_are_not_kept(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert "cookie" not in request.headers
        return httpx.Response(
            200, headers={"set-cookie": "session=1"}, json=answer("run-echo-by-id")
        )

    flow = client(files, handler)
    await flow.run(REQUEST)
    await flow.run(REQUEST)
    await flow.close()


@pytest.mark.parametrize(
    ("content_type", "failure"),
    [
        ("application/json", None),
        ("application/json; charset=utf-8", None),
        ("Application/JSON", None),
        ("text/html", Failure.CONFIGURATION),
        ("text/event-stream; charset=utf-8", Failure.CONFIGURATION),
    ],
)
async def test_content_types(files: Files, content_type: str, failure: Failure | None) -> None:
    body = json.dumps(answer("run-echo-by-id"))

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": content_type}, text=body)

    flow = client(files, handler)
    if failure is None:
        assert (await flow.run(REQUEST)).value == "hello"
        await flow.close()
    else:
        assert (await refused(flow)).failure is failure


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000])
async def test_broken_json_is_poison(files: Files, body: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "application/json"}, text=body)

    error = await refused(client(files, handler))
    assert (error.failure, error.reason) == (Failure.POISON, "AnswerInvalid")


async def test_an_answer_that_was_cut_off(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "MAX_ANSWER_BYTES", 1024 * 1024)

    def handler(request: httpx.Request) -> httpx.Response:
        body = b" " * (1024 * 1024 + 1)
        return httpx.Response(200, headers={"content-type": "application/json"}, content=body)

    error = await refused(client(files, handler))
    assert (error.failure, error.reason) == (Failure.POISON, "AnswerInvalid")
    assert "exceeds 1 MiB" in str(error)


async def test_the_key_of_the_url_is_shown_nowhere(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    error = await refused(client(files, handler, url=f"http://user:{KEY}@langflow:7860"))
    assert str(error).startswith("http://langflow:7860: ")


async def test_a_key_that_the_server_quotes_is_cut_out(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"detail": f"no such key: {request.headers['x-api-key']}"})

    error = await refused(
        client(files, handler, apiKeySecretRef={"name": "langflow", "key": "key"})
    )
    assert "no such key: ***" in str(error)


async def test_a_token_is_secret_without_its_scheme(files: Files, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "langflow" / "key").write_text(f"Bearer {KEY}-of-its-own\n")

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"detail": f"{'x' * 990} {KEY}-of-its-own"})

    ref = {"name": "langflow", "key": "key"}
    error = await refused(client(files, handler, apiKeySecretRef=ref, apiKeyHeader="Authorization"))
    assert KEY[:6] not in str(error)


async def test_two_users_of_one_header_are_a_misconfiguration(files: Files) -> None:
    fields = {"url": "http://user:pass@langflow", "apiKeyHeader": "Authorization"}
    flow = make_flow(**fields, apiKeySecretRef={"name": "langflow", "key": "key"})
    error = await refused(LangflowFlow(flow, files))
    assert error.failure is Failure.CONFIGURATION


async def test_a_message_without_an_answer_is_that_messages_problem(files: Files) -> None:
    good = answer("run-echo-by-id")
    documents: list[dict[str, Any]] = [good, {"outputs": []}, good]
    responses = iter([httpx.Response(200, json=d) for d in documents])
    flow = client(files, lambda _: next(responses, httpx.Response(401)))
    await flow.run(REQUEST)
    error = await refused(flow)
    assert (error.failure, error.reason) == (Failure.POISON, "NoAnswer")
    await flow.run(REQUEST)
    assert (await refused(flow)).failure is Failure.CONFIGURATION
