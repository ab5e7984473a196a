"""Asks flow servers whether they are there and have the flow, also while no worker runs.

What the operator can reach says nothing certain about what workers can. So only a word of the
server itself (no such flow, a wrong key) counts against a binding; whatever fails on the way leaves
its condition unknown. Nothing of an answer is shown but the server's version.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
import structlog

from flowbinding_api.binding import FlowBinding
from flowbinding_api.flow import Backend, LangflowApi
from flowbinding_api.reasons import Reason
from flowbinding_api.status import ConditionStatus
from flowbinding_api.tls import client_context
from flowbinding_operator.probed import Probed
from flowbinding_operator.references import Objects, data

log = structlog.get_logger(__name__)

T = TypeVar("T")

FLOW_SECONDS = 600.0
"""How often a flow that is there is asked for again: its answer is the whole flow."""
CALL_SECONDS = 5.0
PATIENCE = 2
"""Failures in a row that make a binding unknown: a server that restarts is no news."""
AT_ONCE = 8
MAX_BYTES = 64 * 1024

_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask, and how.

    Attributes:
        url: Of the server, without user and password, and without a slash at its end.
        served: Whether it is `lfx serve` that we expect there.
        flow_path: Where the flow can be asked for; None if it has only a name, or nothing that we
            could prove ourselves with.
        headers: For that.
        ca: Authorities (PEM) to trust instead of the system's.
    """

    url: str
    served: bool
    flow_path: str | None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca: bytes | None = field(default=None, repr=False)

    @property
    def server(self) -> tuple[str, bool, bytes | None]:
        """Identifies the server: bindings share the answers to what is asked about it."""
        return self.url, self.served, self.ca


@dataclass(slots=True)
class _Server:
    """What is known of a server: `trouble` says why it does not answer."""

    asked_at: float
    trouble: str = ""
    version: str | None = None
    failures: int = 0


@dataclass(slots=True)
class _Watched:
    target: Target
    probed: Probed | None = None
    asked_at: float = float("-inf")
    there: bool = False
    refusal: Probed | None = None


class Prober:
    """Asks the servers of all bindings that it is told to watch.

    Args:
        changed: Told of each binding whose result is another than before.
        seconds: Between two questions to a server; 0 for none at all.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changed = changed
        self._seconds = seconds
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._servers: dict[tuple[str, bool, bytes | None], _Server] = {}
        self._news = asyncio.Event()

    def watch(self, key: str, target: Target | None) -> None:
        """Watch a binding's flow, or change how; None: there is nothing to ask."""
        known = self._watched.get(key)
        if target is None or self._seconds == 0:
            self._watched.pop(key, None)
        elif known is None or known.target != target:
            self._watched[key] = _Watched(target)
            self._news.set()

    def forget(self, key: str) -> None:
        """Stop watching a binding."""
        self._watched.pop(key, None)

    def result(self, key: str) -> Probed | None:
        """What is known of a binding's flow; None before the first answer."""
        watched = self._watched.get(key)
        return watched.probed if watched else None

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            self._news.clear()
            try:
                await self.ask()
            except Exception:
                # Nothing depends on it.
                log.exception("flow servers not asked")
            try:
                async with asyncio.timeout(self._seconds or None):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def ask(self) -> None:
        """Ask everything that is due."""
        if not self._watched:
            self._servers.clear()
            return
        limit = asyncio.Semaphore(AT_ONCE)

        async def each(ask: Callable[[T], Awaitable[None]], of: Iterable[T]) -> None:
            async def one(item: T) -> None:
                async with limit:
                    await ask(item)

            await asyncio.gather(*map(one, of))

        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        ) as session:
            wanted = {watched.target.server: watched.target for watched in self._watched.values()}
            self._servers = {k: v for k, v in self._servers.items() if k in wanted}
            watched = list(self._watched.items())
            due = [target for target in wanted.values() if self._is_due(target)]
            await each(partial(self._ask_server, session), due)
            await each(partial(self._ask_flow, session), watched)

    def _is_due(self, target: Target) -> bool:
        known = self._servers.get(target.server)
        return known is None or self._clock() - known.asked_at >= self._seconds * 0.9

    async def _ask_server(self, session: aiohttp.ClientSession, target: Target) -> None:
        before = self._servers.get(target.server)
        now = _Server(self._clock(), version=before.version if before else None)
        try:
            now.trouble, version = await _look(session, target)
            now.version = now.version if now.trouble else version
        except Exception as error:  # noqa: BLE001 - the other servers have to be asked too
            now.trouble = _words(error)
        if now.trouble:
            now.failures = before.failures + 1 if before else 1
        self._servers[target.server] = now

    async def _ask_flow(self, session: aiohttp.ClientSession, item: tuple[str, _Watched]) -> None:
        key, watched = item
        server = self._servers[watched.target.server]
        if not server.trouble:
            await self._ask_whether_there(session, watched)
        elif watched.probed is not None and server.failures < PATIENCE:
            return
        probed = _probed(watched, server)
        if self._watched.get(key) is watched and probed != watched.probed:
            watched.probed = probed
            self._changed(key)

    async def _ask_whether_there(self, session: aiohttp.ClientSession, watched: _Watched) -> None:
        target, now = watched.target, self._clock()
        believed = FLOW_SECONDS if watched.there else self._seconds * 0.9
        if target.flow_path is None or now - watched.asked_at < believed:
            return
        watched.asked_at = now
        try:
            status, answer = await _get(session, target, target.flow_path)
        except Exception as error:  # noqa: BLE001 - the server was there a moment ago
            log.debug("flow not asked for", server=target.url, error=_words(error))
            return
        watched.refusal = _refusal(status, answer)
        watched.there = status == 200


def target_of(binding: FlowBinding, objects: Objects) -> Target | None:
    """What to ask about a binding; None when there is no server to ask.

    Args:
        binding: The binding.
        objects: The Secrets that it refers to.
    """
    flow = binding.spec.flow
    if flow.backend is not Backend.LANGFLOW or flow.id is None or flow.url is None:
        return None
    parts = urlsplit(flow.url)
    url = urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
    )
    served = flow.api is LangflowApi.SERVE
    path: str | None = f"/flows/{quote(flow.id, safe='')}/info"
    if not served:
        path = f"/api/v1/flows/{flow.id}" if _UUID.fullmatch(flow.id) else None
    key = _secret(objects, flow.api_key_secret_ref)
    if flow.auth is not None or key is None or not (key.isascii() and key.isprintable()):
        path = None
    headers = ((flow.api_key_header, key),) if path and key else ()
    ca = flow.tls.ca_secret_ref if flow.tls is not None else None
    found = data(objects.get(("Secret", ca.name)) or {}).get(ca.key) if ca is not None else None
    return Target(url, served, path, headers, found)


async def _look(session: aiohttp.ClientSession, target: Target) -> tuple[str, str | None]:
    """What is wrong with a server, if anything, and its version, if it says it."""
    path = "/health" if target.served else "/health_check"
    status, health = await _get(session, target, path)
    healthy = status == 200 and isinstance(health, Mapping)
    version = None
    if status < 500 and not target.served:
        # An ingress may let the API through and nothing else.
        found, answer = await _get(session, target, "/api/v1/version")
        version = _version(answer) if found == 200 else None
    if healthy or version is not None:
        return "", version
    return f"GET {path} was answered with {status}{', a web page' if status == 200 else ''}", None


async def _get(session: aiohttp.ClientSession, target: Target, path: str) -> tuple[int, Any]:
    """Status and document of an answer; None for what is no short JSON."""
    context: ssl.SSLContext | bool = client_context(target.ca) if target.ca is not None else True
    headers = dict(target.headers) if path == target.flow_path else {}
    url = target.url + path
    async with session.get(url, headers=headers, ssl=context, allow_redirects=False) as response:
        if response.content_type != "application/json" or (
            # The whole flow, which is of no use here.
            response.status == 200 and path == target.flow_path
        ):
            return response.status, None
        raw = await response.content.read(MAX_BYTES)
        try:
            return response.status, json.loads(raw)
        except (ValueError, RecursionError):
            return response.status, None


def _refusal(status: int, answer: Any) -> Probed | None:
    """What a server says against running the flow, if it is the flow server that says it."""
    if not isinstance(answer, Mapping) or "detail" not in answer:
        return None
    if status in (401, 403):
        message = f"the flow server answers {status} to the key of spec.flow.apiKeySecretRef"
        return Probed(ConditionStatus.FALSE, Reason.FLOW_UNAUTHORIZED, message)
    # A path that nobody knows is "Not Found".
    detail = answer["detail"]
    said = detail.get("error") if isinstance(detail, Mapping) else detail
    if status == 404 and isinstance(said, str) and said.lower() == "flow not found":
        message = "the flow server has no flow with the id of spec.flow.id, or not for this key"
        return Probed(ConditionStatus.FALSE, Reason.FLOW_NOT_FOUND, message)
    return None


def _probed(watched: _Watched, server: _Server) -> Probed:
    target, refusal, version = watched.target, watched.refusal, server.version
    if server.trouble:
        message = f"the operator has no answer from {target.url}: {server.trouble}; workers may"
        return Probed(ConditionStatus.UNKNOWN, Reason.PROBE_FAILED, message, version)
    if refusal is not None:
        return Probed(refusal.status, refusal.reason, refusal.message, version)
    name = "lfx serve" if target.served else f"Langflow {version or ''}".rstrip()
    there = "has the flow" if watched.there else "answers; whether it has the flow is not known"
    return Probed(ConditionStatus.TRUE, Reason.SERVER_HEALTHY, f"{name} {there}", version)


def _version(answer: Any) -> str | None:
    version = answer.get("version") if isinstance(answer, Mapping) else None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else None


def _secret(objects: Objects, reference: Any) -> str | None:
    if reference is None:
        return None
    raw = data(objects.get(("Secret", reference.name)) or {}).get(reference.key, b"")
    return raw.decode("utf-8", "replace").strip() or None


def _words(error: BaseException) -> str:
    """Why there is no answer. Without addresses and ports, which change from try to try."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS failed"
    if isinstance(error, TimeoutError):
        return f"no answer within {CALL_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.strerror or error.os_error.strerror})"
    return "the connection broke"
