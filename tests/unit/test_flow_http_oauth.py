"""OAuth 2.0 tokens: asked for once, renewed in time, replaced when they are refused."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from auth_bench import (
    LANGFLOW_ANSWER,
    OAUTH,
    REQUEST,
    Backend,
    Handler,
    both,
    idp_files,
    make,
    write,
)
from flow_fakes import MockServer
from flowbinding_api.flow_http import OAuth2
from flowbinding_worker.files import Files
from flowbinding_worker.flows.oauth import TokenSource
from flowbinding_worker.ports import Failure, ProcessingError
from flowbinding_worker.redaction import redact


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return idp_files(tmp_path)


@dataclass
class Servers:
    """An authorisation server and a flow server that takes its newest token only."""

    life: Any = 3600
    given: int = 0
    forms: list[dict[str, str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    seen: list[str | None] = field(default_factory=list)
    refusal: httpx.Response | None = None
    revoked: bool = False
    hold: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "idp.example":
            return await self.token(request)
        self.seen.append(request.headers.get("authorization"))
        if self.revoked or self.seen[-1] != f"Bearer token-{self.given}":
            return httpx.Response(401, json={"detail": "no"})
        return httpx.Response(200, json=LANGFLOW_ANSWER)

    async def token(self, request: httpx.Request) -> httpx.Response:
        self.logins.append(request.headers["authorization"])
        self.asked.set()
        self.forms.append(dict(urllib.parse.parse_qsl(request.content.decode())))
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            return self.refusal
        self.given += 1
        answer = {"access_token": f"token-{self.given}", "token_type": "bearer"}
        return httpx.Response(200, json={**answer, "expires_in": self.life})


@both
async def test_a_token_is_asked_for_once(files: Files, backend: Backend) -> None:
    servers = Servers()
    flow = make(servers, files, backend, auth={"oauth2": OAUTH})
    await flow.start()
    assert servers.forms == []
    await asyncio.gather(*(flow.run(REQUEST) for _ in range(5)))
    await flow.run(REQUEST)
    await flow.close()
    assert servers.seen == ["Bearer token-1"] * 6
    assert servers.forms == [
        {
            "grant_type": "client_credentials",
            "scope": "flows.run flows.read",
            "audience": "https://flows.example",
        }
    ]
    # RFC 6749, 2.3.1: both parts are form-encoded before they are joined.
    encoded = servers.logins[0].removeprefix("Basic ")
    assert base64.b64decode(encoded) == b"client%2F1:client+secret%2B1"
    assert redact(f"{encoded} client secret+1 token-1") == "*** *** ***"


async def test_a_refused_token_is_replaced_once(files: Files) -> None:
    servers = Servers()
    flow = make(servers, files, auth={"oauth2": OAUTH})
    await flow.run(REQUEST)
    servers.given = 5
    await flow.run(REQUEST)
    assert servers.seen == ["Bearer token-1", "Bearer token-1", "Bearer token-6"]
    servers.revoked = True
    with pytest.raises(ProcessingError) as raised:
        await flow.run(REQUEST)
    await flow.close()
    assert (raised.value.failure, raised.value.reason) == (
        Failure.CONFIGURATION,
        "FlowUnauthorized",
    )
    assert servers.seen[3:] == ["Bearer token-6", "Bearer token-7"]


async def test_tokens_of_long_ago_are_forgotten(files: Files) -> None:
    servers = Servers(life=0)
    flow = make(servers, files, auth={"oauth2": OAUTH})
    for _ in range(30):
        await flow.run(REQUEST)
    await flow.close()
    said = redact(" ".join(f"<token-{number}>" for number in range(1, 31)))
    assert "<token-5>" in said
    assert "token-15>" not in said
    assert said.endswith("<***>")


async def test_a_token_that_comes_again_and_again_stays_a_secret(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        token = {"access_token": "the-same-token", "expires_in": 0}
        return httpx.Response(200, json=token if request.url.host == "idp.example" else {})

    flow = make(handler, files, auth={"oauth2": OAUTH})
    for _ in range(50):
        await flow.run(REQUEST)
    await flow.close()
    assert redact("the-same-token") == "***"


async def test_a_token_is_not_replaced_by_all_who_had_it(files: Files) -> None:
    servers = Servers()
    flow = make(servers, files, auth={"oauth2": OAUTH})
    await flow.run(REQUEST)
    servers.given = 5
    await asyncio.gather(*(flow.run(REQUEST) for _ in range(8)))
    await flow.close()
    assert len(servers.forms) == 2


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def source(files: Files, servers: Handler, clock: Clock, **fields: Any) -> TokenSource:
    oauth = OAuth2.model_validate({**OAUTH, **fields})
    return TokenSource(oauth, None, files, MockServer(servers), clock)


@pytest.mark.parametrize(
    ("life", "kept", "renewed"), [(3600, 3539, 3541), ("100", 79, 81), (10, 7.9, 8.1)]
)
async def test_a_token_is_renewed_before_its_end(
    files: Files, life: Any, kept: float, renewed: float
) -> None:
    servers, clock = Servers(life=life), Clock()
    tokens = source(files, servers, clock)
    assert await tokens.token(1) == "token-1"
    clock.now = 100.0 + kept
    assert await tokens.token(1) == "token-1"
    clock.now = 100.0 + renewed
    assert await tokens.token(1) == "token-2"


async def test_a_token_is_used_to_its_end_while_no_other_can_be_had(files: Files) -> None:
    servers, clock = Servers(life=100), Clock()
    tokens = source(files, servers, clock)
    await tokens.token(1)
    servers.refusal = httpx.Response(500)
    clock.now = 195.0
    assert await tokens.token(1) == "token-1"
    clock.now = 201.0
    with pytest.raises(ProcessingError) as raised:
        await tokens.token(1)
    assert (raised.value.failure, raised.value.reason) == (Failure.TRANSIENT, "FlowUnreachable")


@pytest.mark.parametrize("life", [None, "soon", -1])
async def test_a_token_without_an_end_is_kept_until_it_is_refused(files: Files, life: Any) -> None:
    servers, clock = Servers(life=life), Clock()
    tokens = source(files, servers, clock)
    await tokens.token(1)
    clock.now = 1e9
    assert await tokens.token(1) == "token-1"
    tokens.refused("another")
    assert await tokens.token(1) == "token-1"
    tokens.refused("token-1")
    assert await tokens.token(1) == "token-2"


async def test_a_new_client_secret_asks_for_a_new_token(files: Files) -> None:
    servers, clock = Servers(), Clock()
    tokens = source(files, servers, clock)
    await tokens.token(1)
    write(files, "secret", "client-secret-2")
    assert await tokens.token(1) == "token-2"
    assert servers.logins[0] != servers.logins[1]


async def test_one_who_gives_up_does_not_take_the_token_from_the_others(files: Files) -> None:
    servers, clock = Servers(hold=asyncio.Event()), Clock()
    tokens = source(files, servers, clock)
    first, second = (asyncio.create_task(tokens.token(60)) for _ in range(2))
    await servers.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert servers.hold is not None
    servers.hold.set()
    assert await second == "token-1"
    assert len(servers.forms) == 1


async def test_an_endpoint_that_does_not_answer_is_no_run_of_unknown_outcome(files: Files) -> None:
    servers = Servers(hold=asyncio.Event())
    flow = make(servers, files, auth={"oauth2": OAUTH}, timeoutSeconds=0.05)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(REQUEST)
    await flow.close()
    error = raised.value
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowUnreachable")
    assert (error.outcome_unknown, error.ran, servers.seen) == (False, False, [])
    assert str(error) == "spec.flow.auth.oauth2.tokenUrl: no answer within 0.05 s"


async def test_a_second_call_has_the_time_that_is_left(files: Files) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    ended: asyncio.Future[bool] = loop.create_future()

    async def slow(request: httpx.Request) -> httpx.Response:
        if request.url.host != "flows.example":
            return await servers.token(request)
        servers.seen.append(None)
        if len(servers.seen) > 1:
            await over.wait()
        # Between the end of the whole time and the end of one that began anew.
        loop.call_later(0.35, lambda: ended.set_result(run.done() or run.cancelling() > 0))
        await asyncio.sleep(0.2)
        return httpx.Response(401)

    servers = Servers()
    flow = make(slow, files, auth={"oauth2": OAUTH}, timeoutSeconds=0.3)
    run = asyncio.create_task(flow.run(REQUEST))
    with pytest.raises(ProcessingError, match=r"timeoutSeconds \(0.3 s\)"):
        await run
    assert await ended
    await flow.close()


async def test_a_connection_that_breaks_is_no_run_of_unknown_outcome(files: Files) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(ProcessingError) as raised:
        await source(files, handler, Clock()).token(1)
    assert raised.value.failure is Failure.TRANSIENT
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("status", "body", "failure", "reason", "said"),
    [
        (
            401,
            {"error": "invalid_client", "error_description": "Client not found"},
            Failure.CONFIGURATION,
            "FlowUnauthorized",
            "answered 401: invalid_client Client not found; check spec.flow.auth.oauth2",
        ),
        (
            400,
            {"error": "invalid_scope"},
            Failure.CONFIGURATION,
            "FlowUnauthorized",
            "answered 400: invalid_scope; check",
        ),
        (404, "<html>", Failure.CONFIGURATION, "FlowUnauthorized", "answered 404; check"),
        (302, "", Failure.CONFIGURATION, "FlowUnauthorized", "answered 302; check"),
        (429, {}, Failure.THROTTLE, "FlowThrottled", "answered 429"),
        (503, {}, Failure.THROTTLE, "FlowThrottled", "answered 503"),
        (502, "", Failure.TRANSIENT, "FlowUnreachable", "answered 502"),
        (200, {"token": "x"}, Failure.CONFIGURATION, "FlowMisconfigured", "without a text access"),
        (200, "<html>", Failure.CONFIGURATION, "FlowMisconfigured", "without a text access_token"),
        (
            200,
            {"access_token": "a b\n"},
            Failure.CONFIGURATION,
            "FlowMisconfigured",
            "without a text access_token",
        ),
        (
            200,
            {"access_token": "abcdef", "token_type": "mac"},
            Failure.CONFIGURATION,
            "FlowMisconfigured",
            "gave a token of type mac, not Bearer",
        ),
    ],
)
async def test_what_an_endpoint_may_answer(
    files: Files, status: int, body: Any, failure: Failure, reason: str, said: str
) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return httpx.Response(status, text=text, headers={"Retry-After": "7"})

    with pytest.raises(ProcessingError) as raised:
        await source(files, handler, Clock()).token(1)
    error = raised.value
    assert (error.failure, error.reason, error.outcome_unknown) == (failure, reason, False)
    assert str(error).startswith("spec.flow.auth.oauth2.tokenUrl: ")
    assert said in str(error)
    if failure is Failure.THROTTLE:
        assert error.retry_after_seconds == 7.0


@pytest.mark.parametrize("url", ["http://host:99999/token", "http://[::1/token"])
async def test_a_token_url_that_is_none(files: Files, url: str) -> None:
    tokens = TokenSource(OAuth2.model_validate({**OAUTH, "tokenUrl": url}), None, files)
    with pytest.raises(ProcessingError, match=r"spec\.flow\.auth\.oauth2\.tokenUrl: not a URL"):
        tokens.check()
