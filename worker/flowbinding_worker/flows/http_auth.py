"""What proves to a flow server who asks: headers, made from Secrets anew for each call."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.flow_http import BasicAuth, FlowAuth, FlowTls
from flowbinding_api.reasons import Reason
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import misconfigured
from flowbinding_worker.flows.oauth import TokenSource
from flowbinding_worker.flows.transport import Transport
from flowbinding_worker.redaction import redact

_AUTHORIZATION = "Authorization"
_BEARER = "Bearer "


class Credentials:
    """The headers that a server's `apiKeySecretRef` and `auth` ask for.

    Args:
        auth: The user's.
        tls: The server's; its authority counts for the token endpoint too.
        files: Where its Secrets are mounted.
        transport: To the token endpoint; a real one if None.
        field: Path of what names the server, for messages.
        api_key: A key, if there is one.
        api_key_header: The header that has it.
    """

    def __init__(
        self,
        auth: FlowAuth | None,
        tls: FlowTls | None,
        files: Files,
        transport: Transport | None,
        field: str,
        api_key: SecretKeyRef | None,
        api_key_header: str,
    ) -> None:
        self._auth = auth
        self._files = files
        self._field = field
        self._api_key = api_key
        self._api_key_header = api_key_header
        oauth = auth.oauth2 if auth is not None else None
        field = f"{field}.auth.oauth2"
        self._tokens = TokenSource(oauth, tls, files, transport, field=field) if oauth else None

    def check(self) -> Mapping[str, str]:
        """The headers as far as they can be had without asking anybody.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing or FlowUnauthorized.
        """
        headers = self._fixed()
        if self._tokens is not None:
            self._tokens.check()
            headers[_AUTHORIZATION] = _BEARER
        return headers

    async def headers(self, seconds: float) -> Mapping[str, str]:
        """The headers of one call.

        Args:
            seconds: How long asking for a token may take at most.

        Raises:
            ProcessingError: As for `check`; and whatever asking for a token gives.
        """
        headers = self._fixed()
        if self._tokens is not None:
            headers[_AUTHORIZATION] = _BEARER + await self._tokens.token(seconds)
        return headers

    def outdated(self, headers: Mapping[str, str]) -> bool:
        """Told that the server refuses these headers: whether other ones can be had."""
        if self._tokens is None:
            return False
        self._tokens.refused(headers[_AUTHORIZATION].removeprefix(_BEARER))
        return True

    async def close(self) -> None:
        """Close all connections."""
        if self._tokens is not None:
            await self._tokens.close()

    def _fixed(self) -> dict[str, str]:
        headers = {}
        ref, auth = self._api_key, self._auth
        if ref is not None:
            key = header_text(self._files, ref, f"{self._field}.apiKeySecretRef", "the API key")
            # `Bearer <token>` is a secret, and the token alone is one.
            redact.learn(key.rpartition(" ")[2])
            headers[self._api_key_header] = key
        if auth is not None and auth.bearer_token_secret_ref is not None:
            field = f"{self._field}.auth.bearerTokenSecretRef"
            token = header_text(self._files, auth.bearer_token_secret_ref, field, "the token")
            headers[_AUTHORIZATION] = _BEARER + token
        if auth is not None and auth.basic is not None:
            headers[_AUTHORIZATION] = self._basic(auth.basic)
        return headers

    def _basic(self, basic: BasicAuth) -> str:
        field = f"{self._field}.auth.basic"
        user = self._files.name(basic.username_secret_ref, f"{field}.usernameSecretRef")
        password = self._files.secret(basic.password_secret_ref, f"{field}.passwordSecretRef")
        return basic_header(user, password)


def basic_header(user: bytes, password: bytes) -> str:
    """HTTP Basic (RFC 7617), in UTF-8."""
    # Secrets that were made from a file end with its line break.
    encoded = base64.b64encode(user.strip(b"\r\n") + b":" + password.strip(b"\r\n")).decode()
    redact.learn(encoded)
    return f"Basic {encoded}"


def header_text(files: Files, ref: SecretKeyRef, field: str, what: str) -> str:
    """A Secret's key as the value of a header.

    Raises:
        ProcessingError: CONFIGURATION with reason SecretMissing or FlowUnauthorized.
    """
    return _checked(files.secret(ref, field), field, what)


@lru_cache(maxsize=16)
def _checked(secret: bytes, field: str, what: str) -> str:
    # Keys are often saved with a newline at the end.
    text = secret.decode("utf-8", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        problem = "holds characters that no header can carry" if text else "is empty"
        raise misconfigured(f"{field}: {what} {problem}", Reason.FLOW_UNAUTHORIZED)
    return text
