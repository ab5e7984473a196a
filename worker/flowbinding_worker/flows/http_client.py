"""The server of a flow: where it is, how to prove who asks, and how long to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.flow import Flow
from flowbinding_api.flow_http import FlowAuth, FlowTls
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import Answer, misconfigured, timed_out
from flowbinding_worker.flows.http_auth import Credentials
from flowbinding_worker.flows.http_exchange import address, exchange
from flowbinding_worker.flows.http_tls import TlsContext
from flowbinding_worker.flows.transport import ConnectionPool, Transport, make_transport

CONNECT_SHARE = 0.9
"""Of a call's time, for a connection at most: without one, nothing was asked for."""


@dataclass(frozen=True, slots=True)
class Server:
    """Which server is called, and as whom.

    Attributes:
        field: Path of what says so, for messages; `url`, `auth` and `tls` are its fields.
        url: Its address.
        timeout_seconds: How long a call may take.
        auth: What proves who asks.
        tls: How to know the server, and to be known.
        api_key_secret_ref: A key that is sent, too.
        api_key_header: The header that has it.
    """

    field: str
    url: str
    timeout_seconds: float
    auth: FlowAuth | None = None
    tls: FlowTls | None = None
    api_key_secret_ref: SecretKeyRef | None = None
    api_key_header: str = ""

    @classmethod
    def of_flow(cls, flow: Flow) -> Server:
        """The server of a flow that has one."""
        return cls(
            "spec.flow",
            flow.url or "",
            flow.timeout_seconds,
            flow.auth,
            flow.tls,
            flow.api_key_secret_ref,
            flow.api_key_header,
        )


class FlowClient:
    """Calls one server.

    Secrets are read for each call, so that new keys, passwords and certificates work at once.

    Args:
        server: Which.
        files: Where its Secrets are mounted.
        transport: Instead of a real one, in tests.
    """

    def __init__(
        self,
        server: Server,
        files: Files,
        *,
        transport: Transport | None = None,
    ) -> None:
        self._server = server
        self._given = transport
        self._transport: ConnectionPool | None = None
        self._base: httpx.URL | None = None
        self._field = f"{server.field}.url"
        self._tls = TlsContext(server.tls, files, f"{server.field}.tls")
        api_key = server.api_key_secret_ref, server.api_key_header
        self._credentials = Credentials(
            server.auth, server.tls, files, transport, server.field, *api_key
        )

    @property
    def base(self) -> httpx.URL:
        """The server's address, with user and password.

        Raises:
            ProcessingError: CONFIGURATION, when it is none.
        """
        self._base = self._base or address(self._server.url, self._field)
        return self._base

    def check(self) -> None:
        """Find out whether the address is one and all Secrets can be used; calls nothing.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing, FlowUnauthorized or
                FlowMisconfigured.
        """
        base = self.base
        self._connected(base)
        self._check_user(base, self._credentials.check())

    async def call(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        seconds: float | None = None,
    ) -> Answer:
        """Call the server once; twice, if it refuses a token that was still to be valid.

        Args:
            method: GET, POST, …
            url: Made from `base`.
            headers: Beside those that prove who asks.
            body: Empty for none.
            seconds: How long all of it may take; the server's `timeout_seconds` if None.

        Returns:
            The answer, whatever its status.

        Raises:
            ProcessingError: Classified: there is no answer, or nothing to prove who asks.
        """
        allowed = self._server.timeout_seconds if seconds is None else seconds
        transport, loop = self._connected(url), asyncio.get_running_loop()
        deadline, again = loop.time() + allowed, False
        while True:
            # Bounded by itself: until then the server was not asked for anything.
            proof = await self._credentials.headers(max(0.0, deadline - loop.time()))
            self._check_user(url, proof)
            everything = _together(headers, proof)
            try:
                answer = await exchange(
                    transport, method, url, everything, body, deadline, self._field
                )
            except TimeoutError:
                raise timed_out(allowed) from None
            if again or answer.status != 401 or not self._credentials.outdated(proof):
                return answer
            again = True

    async def close(self) -> None:
        """Close all connections."""
        await self._credentials.close()
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None
        elif self._given is not None:
            await self._given.aclose()

    def _connected(self, server: httpx.URL) -> Transport:
        context = self._tls.current()
        if self._given is not None:
            return self._given
        if self._transport is None:
            most = CONNECT_SHARE * self._server.timeout_seconds
            self._transport = make_transport(server, most, context)
        self._transport.context = context
        return self._transport

    def _check_user(self, url: httpx.URL, proof: Mapping[str, str]) -> None:
        if url.userinfo and any(name.lower() == "authorization" for name in proof):
            raise misconfigured(
                f"{self._field}: its user and password travel in the header Authorization, which"
                f" {self._server.field}.apiKeyHeader or {self._server.field}.auth needs as well;"
                " remove one of them"
            )


def _together(headers: Mapping[str, str], proof: Mapping[str, str]) -> dict[str, str]:
    """All headers; what proves who asks wins, however the other is spelled."""
    together = {"Accept-Encoding": "gzip, deflate", **headers, **proof}
    if len({name.lower() for name in together}) == len(together):
        return together
    return {name.lower(): text for name, text in together.items()}
