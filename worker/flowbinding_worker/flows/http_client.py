"""The server of a flow: where it is, how to prove who asks, and how long to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import Answer, misconfigured, timed_out
from flowbinding_worker.flows.http_auth import Credentials
from flowbinding_worker.flows.http_exchange import address, exchange
from flowbinding_worker.flows.http_tls import TlsContext
from flowbinding_worker.flows.transport import ConnectionPool, Transport, make_transport

CONNECT_SHARE = 0.9
"""Of a call's time, for a connection at most: without one, nothing was asked for."""

FIELD = "spec.flow.url"


class FlowClient:
    """Calls the server that `spec.flow.url` names.

    Secrets are read for each call, so that new keys, passwords and certificates work at once.

    Args:
        flow: A flow with a URL.
        files: Where its Secrets are mounted.
        slots: Calls in flight at most.
        transport: Instead of a real one, in tests.
    """

    def __init__(
        self,
        flow: Flow,
        files: Files,
        *,
        slots: int,
        transport: Transport | None = None,
    ) -> None:
        self._flow = flow
        self._slots = slots
        self._given = transport
        self._transport: ConnectionPool | None = None
        self._base: httpx.URL | None = None
        self._tls = TlsContext(flow.tls, files)
        self._credentials = Credentials(flow, files, transport)

    @property
    def base(self) -> httpx.URL:
        """The server's address, with user and password.

        Raises:
            ProcessingError: CONFIGURATION, when it is none.
        """
        self._base = self._base or address(self._flow.url or "", FIELD)
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
            seconds: How long all of it may take; `spec.flow.timeoutSeconds` if None.

        Returns:
            The answer, whatever its status.

        Raises:
            ProcessingError: Classified: there is no answer, or nothing to prove who asks.
        """
        allowed = self._flow.timeout_seconds if seconds is None else seconds
        transport, loop = self._connected(url), asyncio.get_running_loop()
        deadline, again = loop.time() + allowed, False
        while True:
            # Bounded by itself: until then the server was not asked for anything.
            proof = await self._credentials.headers(max(0.0, deadline - loop.time()))
            self._check_user(url, proof)
            everything = _together(headers, proof)
            try:
                answer = await exchange(transport, method, url, everything, body, deadline)
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
            most = CONNECT_SHARE * self._flow.timeout_seconds
            self._transport = make_transport(server, most, context)
        self._transport.context = context
        return self._transport

    @staticmethod
    def _check_user(url: httpx.URL, proof: Mapping[str, str]) -> None:
        if url.userinfo and any(name.lower() == "authorization" for name in proof):
            raise misconfigured(
                "spec.flow.url: its user and password travel in the header Authorization, which"
                " spec.flow.apiKeyHeader or spec.flow.auth needs as well; remove one of them"
            )


def _together(headers: Mapping[str, str], proof: Mapping[str, str]) -> dict[str, str]:
    """All headers; what proves who asks wins, however the other is spelled."""
    together = {"Accept-Encoding": "gzip, deflate", **headers, **proof}
    if len({name.lower() for name in together}) == len(together):
        return together
    return {name.lower(): text for name, text in together.items()}
