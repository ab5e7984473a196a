"""The client of Langflow's run API: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp.web
import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows import http_exchange
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError

SAMPLES = Path(__file__).parents[1] / "data" / "langflow"
REQUEST = FlowRequest("in-0-7", "hello", "s-1", {"Prompt-p": {"name": "Alice", "n": 1}})
KEY = "sk-secret-1"
BASIC = aiohttp.encode_basic_auth("user", "pa ss")

Handler = Callable[[httpx.Request], httpx.Response]


def answer(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())["response"]
    return document


def make_flow(**fields: Any) -> Flow:
    base = {"backend": "Langflow", "url": "http://langflow:7860/", "id": "echo"}
    return Flow.model_validate({**base, **fields})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    secret = tmp_path / "secrets" / "langflow"
    secret.mkdir(parents=True)
    (secret / "key").write_text(KEY + "\n")
    return Files(secrets=tmp_path / "secrets", config_maps=tmp_path / "config-maps")


def client(files: Files, handler: Handler, **fields: Any) -> LangflowFlow:
    return LangflowFlow(make_flow(**fields), files, transport=MockServer(handler))


async def refused(flow: LangflowFlow, request: FlowRequest = REQUEST) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(request)
    await flow.close()
    assert KEY not in str(raised.value)
    assert KEY not in raised.value.response
    return raised.value


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


@pytest.fixture
async def server() -> AsyncIterator[aiohttp.web.ServerRunner]:
    """A stand-in that does what the path of its base URL says."""

    async def handle(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.path.startswith("/hang"):
            await asyncio.Event().wait()
        if request.path.startswith("/drip"):
            response = aiohttp.web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            await response.write(b"{")
            await asyncio.Event().wait()
        if request.path.startswith("/reset"):
            assert request.transport is not None
            request.transport.abort()
        if request.path.startswith("/cut"):
            response = aiohttp.web.StreamResponse(
                headers={"content-type": "application/json", "content-length": "100"}
            )
            await response.prepare(request)
            await response.write(b"{")
            assert request.transport is not None
            request.transport.abort()
        if request.path.startswith("/gzip"):
            response = aiohttp.web.json_response(answer("run-echo-by-id"))
            response.enable_compression(aiohttp.web.ContentCoding.gzip)
            return response
        if request.path.startswith("/basic") and request.headers.get("Authorization") != BASIC:
            return aiohttp.web.json_response({}, status=401)
        if request.path.startswith("/slow-down"):
            return aiohttp.web.json_response({}, status=429, headers={"Retry-After": "3"})
        return aiohttp.web.json_response(answer("run-echo-by-id"))

    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner
    await runner.cleanup()


def address(server: aiohttp.web.ServerRunner) -> str:
    host, port = server.addresses[0]
    return f"http://{host}:{port}"


async def test_many_runs_over_real_connections(
    files: Files, server: aiohttp.web.ServerRunner
) -> None:
    flow = LangflowFlow(make_flow(url=address(server)), files)
    await flow.start()
    results = await asyncio.gather(*(flow.run(REQUEST) for _ in range(40)))
    assert {result.value for result in results} == {"hello"}
    await flow.close()


async def test_compressed_answers(files: Files, server: aiohttp.web.ServerRunner) -> None:
    flow = LangflowFlow(make_flow(url=f"{address(server)}/gzip"), files)
    assert (await flow.run(REQUEST)).value == "hello"
    await flow.close()


async def test_a_user_in_the_url(files: Files, server: aiohttp.web.ServerRunner) -> None:
    url = address(server).replace("//", "//user:pa%20ss@") + "/basic"
    flow = LangflowFlow(make_flow(url=url), files)
    assert (await flow.run(REQUEST)).value == "hello"
    await flow.close()


@pytest.mark.parametrize("path", ["hang", "drip"])
async def test_the_timeout_is_for_the_whole_call(
    files: Files, server: aiohttp.web.ServerRunner, path: str
) -> None:
    fields = {"url": f"{address(server)}/{path}", "timeoutSeconds": 0.2}
    error = await refused(LangflowFlow(make_flow(**fields), files))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")


@pytest.mark.parametrize("path", ["reset", "cut"])
async def test_broken_connections(
    files: Files, server: aiohttp.web.ServerRunner, path: str
) -> None:
    error = await refused(LangflowFlow(make_flow(url=f"{address(server)}/{path}"), files))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowUnreachable")
    assert "connection lost" in str(error)
    assert "outcome unknown" in str(error)


@asynccontextmanager
async def saying(*parts: bytes) -> AsyncIterator[str]:
    """A server that answers any request with these bytes and hangs up; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(parts))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_an_answer_that_is_no_http_does_not_quote_the_query(files: Files) -> None:
    async with saying(b"GARBAGE\r\n\r\n") as host:
        url = f"http://{host}/?x-api-key=in-the-query"
        error = await refused(LangflowFlow(make_flow(url=url), files))
    assert "not HTTP" in str(error)
    assert "in-the-query" not in str(error)
    assert error.outcome_unknown


async def test_a_broken_compression_is_a_lost_answer(files: Files) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\n"
    async with saying(head, b"hello") as host:
        error = await refused(LangflowFlow(make_flow(url=f"http://{host}"), files))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowUnreachable")
    assert error.outcome_unknown


@pytest.mark.parametrize(
    ("status", "failure"), [(407, Failure.CONFIGURATION), (503, Failure.TRANSIENT)]
)
async def test_a_proxy_that_refuses_lets_nothing_through(
    files: Files, monkeypatch: pytest.MonkeyPatch, status: int, failure: Failure
) -> None:
    async with saying(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status) as host:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:of-the-proxy@{host}")
        flow = LangflowFlow(make_flow(url="https://langflow.example"), files)
        error = await refused(flow)
    assert f"the proxy answered {status} No" in str(error)
    assert "of-the-proxy" not in str(error)
    assert (error.failure, error.outcome_unknown) == (failure, False)


@pytest.mark.parametrize("proxy", ["socks5://me:of-the-proxy@proxy", "http://of-the-proxy:@[::1"])
async def test_a_proxy_that_is_none_is_seen_at_the_start(
    files: Files, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    flow = LangflowFlow(make_flow(url="https://langflow.example"), files)
    with pytest.raises(ProcessingError, match="HTTPS_PROXY") as raised:
        await flow.start()
    assert raised.value.failure is Failure.CONFIGURATION
    assert "of-the-proxy" not in str(raised.value)


async def test_a_connection_that_does_not_come_is_no_unknown_outcome(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    # A busy machine must not let the whole call's time run out first.
    monkeypatch.setattr("flowbinding_worker.flows.http_client.CONNECT_SHARE", 0.02)
    fields = {"url": "http://langflow.example", "timeoutSeconds": 5}
    error = await refused(LangflowFlow(make_flow(**fields), files))
    assert "no connection in time" in str(error)
    assert not error.outcome_unknown


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


async def test_retry_after_arrives(files: Files, server: aiohttp.web.ServerRunner) -> None:
    error = await refused(LangflowFlow(make_flow(url=f"{address(server)}/slow-down"), files))
    assert (error.failure, error.retry_after_seconds) == (Failure.THROTTLE, 3.0)


async def test_nobody_listens(files: Files, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    error = await refused(LangflowFlow(make_flow(url=url), files))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowUnreachable")
    assert str(error).startswith(f"{url}: cannot connect: ")


async def test_a_host_that_does_not_exist(files: Files) -> None:
    error = await refused(LangflowFlow(make_flow(url="http://no-such.invalid"), files))
    assert error.reason == "FlowUnreachable"
    assert error.failure in (Failure.CONFIGURATION, Failure.TRANSIENT)


async def test_tls_to_a_server_without_it(files: Files, server: aiohttp.web.ServerRunner) -> None:
    url = address(server).replace("http://", "https://")
    error = await refused(LangflowFlow(make_flow(url=url), files))
    assert error.failure is Failure.CONFIGURATION
    assert "TLS failed" in str(error)


@pytest.mark.parametrize("url", ["http://host:99999", "http://[::1"])
async def test_urls_that_are_none(files: Files, url: str) -> None:
    flow = LangflowFlow(make_flow(url=url), files)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    assert raised.value.failure is Failure.CONFIGURATION
    assert "spec.flow.url" in str(raised.value)
    assert (await refused(flow)).failure is Failure.CONFIGURATION


async def test_cancelling_a_run_cancels_the_request(
    files: Files, server: aiohttp.web.ServerRunner
) -> None:
    flow = LangflowFlow(make_flow(url=f"{address(server)}/hang"), files)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await flow.run(REQUEST)
    await flow.close()


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
