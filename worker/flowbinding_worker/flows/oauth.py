"""OAuth 2.0 client credentials (RFC 6749, section 4.4): one token for all calls of a worker.

docs/decisions/0018 says why this is no library.
"""

from __future__ import annotations

import asyncio
import base64
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flowbinding_api.flow_http import FlowTls, OAuth2
from flowbinding_api.reasons import Reason
from flowbinding_worker import jsons
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import (
    Answer,
    misconfigured,
    retry_after_seconds,
    unreachable,
)
from flowbinding_worker.flows.http_exchange import address, exchange
from flowbinding_worker.flows.http_tls import TlsContext
from flowbinding_worker.flows.transport import ConnectionPool, Transport, make_transport
from flowbinding_worker.ports import Failure, ProcessingError, Stage
from flowbinding_worker.redaction import redact

MAX_SECONDS = 30.0
"""How long the token endpoint may take."""

REMEMBERED = 20
"""Tokens that are kept out of logs; older ones have ended."""

RENEW_SHARE, RENEW_SECONDS = 0.2, 60.0
"""A token is renewed in the last fifth of its life, and in its last minute at most."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token.

    Attributes:
        text: What the header carries.
        renew: When to ask for the next, in seconds of the clock.
        end: When it stops being valid; infinite if nobody said.
        client: Whom it was given to: id and secret.
    """

    text: str
    renew: float
    end: float
    client: tuple[bytes, bytes]


class TokenSource:
    """Keeps one token. Many who need one at once cause one request.

    Args:
        oauth: Whom to ask, and for what.
        tls: The flow's; its authority counts for the token endpoint too.
        files: Where the Secrets are mounted.
        transport: Instead of a real one, in tests.
        clock: Seconds, monotonic.
        field: Path of `oauth`, for messages.
    """

    def __init__(
        self,
        oauth: OAuth2,
        tls: FlowTls | None,
        files: Files,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        field: str = "spec.flow.auth.oauth2",
    ) -> None:
        self._oauth = oauth
        self._files = files
        self._given = transport
        self._clock = clock
        self._field = field
        tls_field = f"{field.removesuffix('.auth.oauth2')}.tls"
        self._tls = TlsContext(tls, files, tls_field, of_flow=False)
        self._transport: ConnectionPool | None = None
        self._token: Token | None = None
        self._given_out: deque[str] = deque()
        self._asking: asyncio.Task[Token] | None = None

    def check(self) -> None:
        """Find out whether the address is one and the Secrets can be read; asks nobody.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing or FlowMisconfigured.
        """
        self._client()
        self._connected()

    async def token(self, seconds: float) -> str:
        """A token that is valid.

        Args:
            seconds: How long it may take.

        Raises:
            ProcessingError: CONFIGURATION with reason FlowUnauthorized when the endpoint refuses;
                THROTTLE or TRANSIENT when it cannot say.
        """
        client, now, kept = self._client(), self._clock(), self._token
        usable = kept is not None and kept.client == client and now < kept.end
        if kept is not None and usable and now < kept.renew:
            return kept.text
        try:
            return (await self._asked(client, min(seconds, MAX_SECONDS))).text
        except ProcessingError:
            if kept is None or not usable:
                raise
            # Still valid: the endpoint has until its end to come back.
            return kept.text

    def refused(self, text: str) -> None:
        """The flow server does not take this token: the next call needs another."""
        if self._token is not None and self._token.text == text:
            self._token = None

    async def close(self) -> None:
        """Stop asking, and close all connections."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def _asked(self, client: tuple[bytes, bytes], seconds: float) -> Token:
        asking = self._asking
        if asking is None or asking.done():
            asking = self._asking = asyncio.create_task(self._ask(client, seconds))
            # All who wait may be gone when it fails.
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asking)

    async def _ask(self, client: tuple[bytes, bytes], seconds: float) -> Token:
        url = address(self._oauth.token_url, f"{self._field}.tokenUrl")
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "Authorization": _basic(client),
        }
        began, deadline = self._clock(), asyncio.get_running_loop().time() + seconds
        field = f"{self._field}.tokenUrl"
        try:
            answer = await exchange(
                self._connected(), "POST", url, headers, self._form(), deadline, field
            )
        except TimeoutError:
            raise unreachable(f"{field}: no answer within {seconds:.3g} s") from None
        except ProcessingError as error:
            raise _not_asked(error, field) from None
        self._token = token = _token(answer, client, began, self._field)
        if token.text not in self._given_out:
            self._given_out.append(token.text)
        if len(self._given_out) > REMEMBERED:
            redact.forget(self._given_out.popleft())
        return token

    def _form(self) -> bytes:
        form = {"grant_type": "client_credentials"}
        if self._oauth.scopes:
            form["scope"] = " ".join(self._oauth.scopes)
        if self._oauth.audience is not None:
            form["audience"] = self._oauth.audience
        return urllib.parse.urlencode(form).encode()

    def _client(self) -> tuple[bytes, bytes]:
        oauth, files = self._oauth, self._files
        identity = files.name(oauth.client_id_secret_ref, f"{self._field}.clientIdSecretRef")
        secret = files.secret(
            oauth.client_secret_secret_ref, f"{self._field}.clientSecretSecretRef"
        )
        # Secrets that were made from a file end with its line break.
        return identity.strip(), secret.strip()

    def _connected(self) -> Transport:
        context = self._tls.current()
        if self._given is not None:
            return self._given
        if self._transport is None:
            server = address(self._oauth.token_url, f"{self._field}.tokenUrl")
            self._transport = make_transport(server, MAX_SECONDS, context)
        self._transport.context = context
        return self._transport


def _basic(client: tuple[bytes, bytes]) -> str:
    """Section 2.3.1: both parts are form-encoded first."""
    pair = b":".join(urllib.parse.quote_plus(part).encode() for part in client)
    encoded = base64.b64encode(pair).decode()
    redact.learn(encoded)
    return f"Basic {encoded}"


def _token(answer: Answer, client: tuple[bytes, bytes], began: float, field: str) -> Token:
    document = jsons.fields(answer.body)
    text = document.get("access_token")
    if isinstance(text, str):
        redact.learn(text)
    if not 200 <= answer.status < 300:
        raise _refused(answer, document, field)
    kind = str(document.get("token_type") or "Bearer")
    if not isinstance(text, str) or not (text.isascii() and text.isprintable()) or not text:
        raise misconfigured(
            f"{field}.tokenUrl: answered {answer.status} without a text access_token; is it the"
            " token endpoint?"
        )
    if kind.lower() != "bearer":
        raise misconfigured(f"{field}.tokenUrl: gave a token of type {kind[:40]}, not Bearer")
    life = _seconds(document.get("expires_in"))
    return (
        Token(text, began + life - min(RENEW_SHARE * life, RENEW_SECONDS), began + life, client)
        if life is not None
        else Token(text, float("inf"), float("inf"), client)
    )


def _seconds(value: Any) -> float | None:
    """`expires_in`; some servers write the number as text."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _refused(answer: Answer, document: Mapping[str, Any], field: str) -> ProcessingError:
    """Section 5.2, and what stands before a server."""
    asked = retry_after_seconds(answer.retry_after, now=datetime.now(UTC))
    said = " ".join(
        str(document[name]) for name in ("error", "error_description") if document.get(name)
    )
    message = f"{field}.tokenUrl: answered {answer.status}" + (f": {said[:300]}" if said else "")
    if answer.status in (429, 503):
        failure, reason = Failure.THROTTLE, Reason.FLOW_THROTTLED
    elif answer.status >= 500 or answer.status == 408:
        failure, reason = Failure.TRANSIENT, Reason.FLOW_UNREACHABLE
    else:
        failure, reason = Failure.CONFIGURATION, Reason.FLOW_UNAUTHORIZED
        message += f"; check {field}: the address, the client's id and secret, scopes and audience"
    return ProcessingError(
        message,
        failure=failure,
        stage=Stage.CALL,
        reason=reason,
        status=answer.status,
        retry_after_seconds=asked,
    )


def _not_asked(error: ProcessingError, field: str) -> ProcessingError:
    """Whatever became of the request for a token: the flow was not asked to run."""
    if error.failure is Failure.CONFIGURATION:
        return error
    return unreachable(f"{field}: {error}")
