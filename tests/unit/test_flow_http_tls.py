"""TLS to a flow server of one's own authority, which wants to see a certificate; for both backends.

The servers are real, in this process, and so are the certificates.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from flow_http_stand_ins import serving
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.http import HttpFlow
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, FlowRequest, HttpParts, ProcessingError
from testbed.pki import Authority, KeyPair

REQUEST = FlowRequest("in-0-7", "hi", "s-1", http=HttpParts("", {}, {"input": "hi"}))
ANSWER = {"outputs": [{"outputs": [{"component_id": "c", "results": {"message": {"text": "ok"}}}]}]}
CA = {"caSecretRef": {"name": "tls", "key": "ca.crt"}}
CLIENT = {
    "certificateSecretRef": {"name": "tls", "key": "tls.crt"},
    "keySecretRef": {"name": "tls", "key": "tls.key"},
}
OAUTH = {
    "clientIdSecretRef": {"name": "tls", "key": "id"},
    "clientSecretSecretRef": {"name": "tls", "key": "secret"},
}


@dataclass
class Server:
    """A TLS server, and who has called it."""

    url: str = ""
    callers: list[str | None] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        names = dict(part[0] for part in peer["subject"]) if peer else {}
        self.callers.append(names.get("commonName"))
        self.connections.add(request.transport.get_extra_info("peername"))
        if request.path == "/token":
            return web.json_response({"access_token": "token-of-tls", "expires_in": 60})
        return web.json_response(ANSWER)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "pki").mkdir()
    return Authority(tmp_path / "pki", "flows")


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    folder = tmp_path / "secrets" / "tls"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.certificate.read_bytes())
    (folder / "id").write_text("client")
    (folder / "secret").write_text("client-secret")
    found = Files(secrets=tmp_path / "secrets")
    show(found, authority.issue("first", "first"))
    return found


def show(files: Files, pair: KeyPair) -> None:
    """Have the Secret hold this certificate."""
    folder = files.secrets / "tls"
    (folder / "tls.crt").write_bytes(pair.certificate.read_bytes())
    (folder / "tls.key").write_bytes(pair.key.read_bytes())


def context(authority: Authority, *, client: bool) -> ssl.SSLContext:
    pair = authority.issue("server", "server", hosts=("127.0.0.1",))
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(pair.certificate, pair.key)
    if client:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(authority.certificate)
    return made


def app(server: Server) -> web.Application:
    made = web.Application()
    made.add_routes([web.post("/{any:.*}", server.handle)])
    return made


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    """Lets nobody in without a certificate."""
    found = Server()
    async with serving(app(found), context(authority, client=True)) as url:
        found.url = url
        yield found


Backend = type[HttpFlow] | type[LangflowFlow]
both = pytest.mark.parametrize("backend", [HttpFlow, LangflowFlow])


def make(
    server: Server, files: Files, tls: Any, backend: Backend = HttpFlow, **fields: Any
) -> HttpFlow | LangflowFlow:
    flow = {
        "backend": "HTTP" if backend is HttpFlow else "Langflow",
        "url": server.url,
        "id": "flow",
        "tls": tls,
        **fields,
    }
    return backend(Flow.model_validate(flow), files)


async def refused(flow: HttpFlow | LangflowFlow) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(REQUEST)
    await flow.close()
    assert raised.value.failure is Failure.CONFIGURATION
    return raised.value


@both
async def test_an_authority_and_a_certificate_of_ones_own(
    files: Files, server: Server, backend: Backend
) -> None:
    flow = make(server, files, {**CA, **CLIENT}, backend)
    await flow.start()
    assert (await flow.run(REQUEST)).value in ("ok", ANSWER)
    await flow.run(REQUEST)
    await flow.close()
    assert server.callers == ["first", "first"]
    assert len(server.connections) == 1


async def test_a_new_certificate_is_shown_at_once(
    files: Files, server: Server, authority: Authority
) -> None:
    flow = make(server, files, {**CA, **CLIENT})
    await flow.run(REQUEST)
    show(files, authority.issue("second", "second"))
    await flow.run(REQUEST)
    await flow.close()
    assert server.callers == ["first", "second"]


async def test_a_server_that_nobody_vouches_for(files: Files, server: Server) -> None:
    error = await refused(make(server, files, None))
    assert error.reason == "FlowUnreachable"
    assert "TLS failed" in str(error)
    assert "check spec.flow.url, the server's certificate and spec.flow.tls" in str(error)


def refuse(listening: socket.socket, wanting: ssl.SSLContext) -> None:
    """Take one connection, say what is wrong with it, and hang up when it has been heard."""
    connection, _ = listening.accept()
    with connection, connection.dup() as plain:
        with pytest.raises(ssl.SSLError):
            wanting.wrap_socket(connection, server_side=True)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(4096):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_wants_a_certificate(
    files: Files, authority: Authority, version: ssl.TLSVersion
) -> None:
    wanting = context(authority, client=True)
    wanting.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listening, wanting))
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        error = await refused(make(Server(url), files, CA))
        await refusing
    assert error.reason == "FlowUnreachable"
    assert "TLS failed" in str(error)
    assert not error.outcome_unknown


async def test_an_authority_that_comes_later(
    files: Files, server: Server, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    path = files.secrets / "tls" / "ca.crt"
    path.write_bytes(other.certificate.read_bytes())
    flow = make(server, files, {**CA, **CLIENT})
    with pytest.raises(ProcessingError, match="TLS failed"):
        await flow.run(REQUEST)
    path.write_bytes(authority.certificate.read_bytes())
    await flow.run(REQUEST)
    await flow.close()
    assert server.callers == ["first"]


def encrypted(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )


@pytest.mark.parametrize("wrong", ["ca.crt", "tls.crt", "tls.key", "pair", "passphrase"])
async def test_contents_that_are_no_certificates(
    files: Files, server: Server, authority: Authority, wrong: str
) -> None:
    folder = files.secrets / "tls"
    if wrong == "pair":
        (folder / "tls.key").write_bytes(authority.issue("x", "x").key.read_bytes())
    elif wrong == "passphrase":
        # Without ours, OpenSSL would ask for one on the terminal.
        (folder / "tls.key").write_bytes(encrypted(folder / "tls.key"))
    else:
        (folder / wrong).write_text("-----BEGIN CERTIFICATE-----\nno\n")
    flow = make(server, files, {**CA, **CLIENT})
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    name, key = (
        ("caSecretRef", "ca.crt")
        if wrong == "ca.crt"
        else (
            "certificateSecretRef",
            "tls.crt",
        )
    )
    assert raised.value.reason == "FlowMisconfigured"
    assert str(raised.value).startswith(
        f"spec.flow.tls.{name}: Secret tls, key {key}: no usable PEM ("
    )
    assert (await refused(flow)).reason == "FlowMisconfigured"


async def test_a_missing_key_is_seen_at_the_start(files: Files, server: Server) -> None:
    (files.secrets / "tls" / "tls.key").unlink()
    flow = make(server, files, {**CA, **CLIENT})
    with pytest.raises(ProcessingError, match=r"spec\.flow\.tls\.keySecretRef: Secret tls has no"):
        await flow.start()


async def test_missing_authorities_of_the_system_are_seen_at_the_start(
    files: Files, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.secrets / "nothing"))
    with pytest.raises(ProcessingError, match="the system's certificates: no usable PEM"):
        await make(server, files, None).start()


async def test_the_token_endpoint_may_be_of_the_same_authority(
    files: Files, server: Server, authority: Authority
) -> None:
    tokens = Server()
    async with serving(app(tokens), context(authority, client=False)) as url:
        oauth = {**OAUTH, "tokenUrl": f"{url}/token"}
        flow = make(server, files, {**CA, **CLIENT}, auth={"oauth2": oauth})
        await flow.start()
        await flow.run(REQUEST)
        await flow.close()
    # Our certificate is for the flow server only.
    assert (tokens.callers, server.callers) == ([None], ["first"])


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def tunnelling(asked: list[bytes]) -> AsyncIterator[str]:
    """A proxy; gives its address."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        host, _, port = asked[-1].split()[1].decode().rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n")
        writer.write(b"via: proxy\r\n\r\n")
        await asyncio.gather(passed_on(reader, there[1]), passed_on(there[0], writer))
        for stream in (writer, there[1]):
            with contextlib.suppress(OSError):
                await stream.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as sockets:
        yield f"127.0.0.1:{sockets.sockets[0].getsockname()[1]}"
        await asyncio.gather(*serving, return_exceptions=True)


async def test_a_tunnel_through_a_proxy_serves_one_call_after_the_other(
    files: Files, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    async with tunnelling(asked) as address:
        # Usual, though it is no URL.
        monkeypatch.setenv("HTTPS_PROXY", f"user:of-the-proxy@{address}")
        flow = make(server, files, {**CA, **CLIENT})
        for _ in range(3):
            await flow.run(REQUEST)
        await flow.close()
    assert server.callers == ["first"] * 3
    (head,) = asked
    assert head.startswith(f"CONNECT {server.url.removeprefix('https://')} HTTP/1.1".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpvZi10aGUtcHJveHk=\r\n" in head


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_server_that_goes_away_is_no_wrong_certificate(
    files: Files, authority: Authority, rudely: bool
) -> None:
    """Without a word of TLS, or with one, once it has the request."""

    def serve(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with context(authority, client=False).wrap_socket(plain, server_side=True) as secured:
            assert secured.recv(4096).startswith(b"POST ")
            if not rudely:
                with contextlib.suppress(OSError):
                    secured.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        flow = make(Server(url), files, CA)
        with pytest.raises(ProcessingError) as raised:
            await flow.run(REQUEST)
        await flow.close()
        await serving
    assert raised.value.failure is Failure.TRANSIENT
    assert raised.value.outcome_unknown
