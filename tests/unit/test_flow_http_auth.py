"""What proves to a flow server who asks: bearer, basic, OAuth 2.0 tokens; for both backends."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from auth_bench import LANGFLOW_ANSWER, OAUTH, REQUEST, Backend, both, idp_files, make, write
from flowbinding_worker.files import Files
from flowbinding_worker.ports import Failure, FlowRequest, HttpParts, ProcessingError
from flowbinding_worker.redaction import redact

BEARER = {"bearerTokenSecretRef": {"name": "idp", "key": "token"}}
BASIC = {
    "basic": {
        "usernameSecretRef": {"name": "idp", "key": "user"},
        "passwordSecretRef": {"name": "idp", "key": "password"},
    }
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return idp_files(tmp_path)


async def header(files: Files, backend: Backend, auth: Any, **fields: Any) -> httpx.Headers:
    seen: list[httpx.Headers] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json=LANGFLOW_ANSWER)

    flow = make(handler, files, backend, auth=auth, **fields)
    await flow.start()
    await flow.run(REQUEST)
    await flow.close()
    return seen[0]


@both
async def test_a_bearer_token(files: Files, backend: Backend) -> None:
    headers = await header(files, backend, BEARER)
    assert headers["authorization"] == "Bearer bearer-token-1"


@both
async def test_a_user_and_a_password(files: Files, backend: Backend) -> None:
    headers = await header(files, backend, BASIC)
    encoded = headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == "alice:pa:ss wörd"
    assert redact(f"x {encoded} pa:ss wörd") == "x *** ***"


@both
async def test_a_token_and_the_key_of_a_gateway(files: Files, backend: Backend) -> None:
    ref = {"name": "idp", "key": "key"}
    headers = await header(files, backend, BEARER, apiKeySecretRef=ref, apiKeyHeader="X-Gateway")
    assert headers["authorization"] == "Bearer bearer-token-1"
    assert headers["x-gateway"] == "sk-of-a-gateway"


async def test_what_the_user_templates_does_not_replace_the_proof(files: Files) -> None:
    seen: list[httpx.Headers] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={})

    flow = make(handler, files, auth=BEARER)
    await flow.run(FlowRequest("r", "x", "s", http=HttpParts("", {"authorization": "mine"}, {})))
    await flow.close()
    assert seen[0].get_list("authorization") == ["Bearer bearer-token-1"]


async def test_a_new_secret_works_at_once(files: Files) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={})

    flow = make(handler, files, auth=BEARER)
    await flow.run(REQUEST)
    write(files, "token", "bearer-token-2")
    await flow.run(REQUEST)
    await flow.close()
    assert seen == ["Bearer bearer-token-1", "Bearer bearer-token-2"]


@pytest.mark.parametrize(
    ("auth", "key", "field"),
    [
        (BEARER, "token", "spec.flow.auth.bearerTokenSecretRef"),
        (BASIC, "password", "spec.flow.auth.basic.passwordSecretRef"),
        ({"oauth2": OAUTH}, "id", "spec.flow.auth.oauth2.clientIdSecretRef"),
        ({"oauth2": OAUTH}, "secret", "spec.flow.auth.oauth2.clientSecretSecretRef"),
    ],
)
async def test_a_missing_secret_is_seen_at_the_start(
    files: Files, auth: Any, key: str, field: str
) -> None:
    (files.secrets / "idp" / key).unlink()
    flow = make(lambda _: pytest.fail("nothing may be sent"), files, auth=auth)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    assert raised.value.reason == "SecretMissing"
    assert str(raised.value).startswith(f"{field}: Secret idp has no readable key {key}")


async def test_a_token_that_no_header_can_carry(files: Files) -> None:
    write(files, "token", "a\nb")
    flow = make(lambda _: pytest.fail("nothing may be sent"), files, auth=BEARER)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    assert (raised.value.failure, raised.value.reason) == (
        Failure.CONFIGURATION,
        "FlowUnauthorized",
    )


async def test_two_users_of_the_authorization_header(files: Files) -> None:
    flow = make(
        lambda _: pytest.fail("nothing may be sent"),
        files,
        url="https://user:pass@flows.example",
        auth=BEARER,
    )
    with pytest.raises(ProcessingError, match=r"spec\.flow\.url: its user and password"):
        await flow.start()
