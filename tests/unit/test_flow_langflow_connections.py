"""Langflow's client over real connections: broken ones, proxies, and hosts that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp.web
import pytest

from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, ProcessingError
from langflow_bench import REQUEST, answer, make_flow, refused, secret_files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return secret_files(tmp_path)


BASIC = aiohttp.encode_basic_auth("user", "pa ss")


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
