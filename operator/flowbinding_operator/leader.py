"""One operator of several acts: whoever holds a Lease (coordination.k8s.io/v1).

When it may act is `claim`'s to say; here are the requests, and the work that begins and ends.

The official client's own election (`kubernetes.aio.leaderelection`, 37.0.1) is not used. It ends
by an exception, with its task still acting, when the API server cannot be reached; a request that
hangs keeps it from noticing that its time is over; its clock is the one on the wall, and the times
that it writes are local ones called UTC; and it never gives the Lease back.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from flowbinding_operator.claim import LEASE_SECONDS, Claim
from flowbinding_operator.kube import KubeError

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
"""How often a candidate looks, and a holder tries again."""
REQUEST_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Without any try for that long, the election itself is dead."""

Object = Mapping[str, Any]


class Leases(Protocol):
    """The requests that it takes."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None: ...  # noqa: D102
    async def create(self, manifest: Object) -> Object: ...  # noqa: D102
    async def replace(self, manifest: Object) -> Object: ...  # noqa: D102


class Leader:
    """Takes part in the election, and runs a term of office whenever it is won.

    Args:
        leases: Requests; on connections of their own, so that no other work delays them.
        namespace: Of the Lease.
        name: Of the Lease.
        instance: A name of this process for people.
        changed: Told whether this process leads, whenever that changes.
    """

    def __init__(
        self,
        leases: Leases,
        namespace: str,
        name: str,
        instance: str,
        *,
        seconds: float = LEASE_SECONDS,
        changed: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._metadata = {"namespace": namespace, "name": name}
        # A name alone is no identity: two processes on one machine would both be the holder.
        self._claim = Claim(f"{instance}_{uuid.uuid4().hex[:12]}", seconds)
        self._renew_seconds = seconds / 3
        self._retry_seconds = min(RETRY_SECONDS, seconds / 15)
        self._patience = min(REQUEST_SECONDS, seconds / 3)
        self._changed = changed
        self._clock = clock
        self._tried_at = clock()
        self._problem = "the Lease has not been read yet"

    @property
    def identity(self) -> str:
        """Who this candidate is."""
        return self._claim.identity

    def holds(self) -> bool:
        """Whether this process may act this very moment."""
        return self._claim.holds(self._clock())

    def problems(self) -> list[str]:
        """What makes this process not worth keeping."""
        stale = self._clock() - self._tried_at > max(STALE_SECONDS, 4 * self._renew_seconds)
        return ["the leader election makes no progress"] if stale else []

    def unready(self) -> list[str]:
        """What keeps it from standing in for another."""
        return [self._problem] if self._problem else []

    async def run(self, term: Callable[[], Awaitable[None]]) -> None:
        """Stand by, and run `term` whenever this process leads, until a term ends by itself.

        A term whose lease is lost is cancelled, and the process stands by again.

        Raises:
            Exception: Whatever a term ends by.
        """
        while True:
            await self._acquire()
            log.info("leading", identity=self.identity)
            self._changed(True)
            try:
                if await self._lead(term):
                    return
            finally:
                self._changed(False)
            log.warning("no longer leading", reason=self._problem or "another holds the Lease")

    async def _acquire(self) -> None:
        log.info("standing by", identity=self.identity, **self._metadata)
        while True:
            if await self._try():
                return
            await asyncio.sleep(self._retry_seconds)

    async def _lead(self, term: Callable[[], Awaitable[None]]) -> bool:
        """Run one term. Whether it has ended by itself."""
        work = asyncio.ensure_future(term())
        renewing = asyncio.create_task(self._renew(), name="lease")
        try:
            await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
            ended = work.done()
        finally:
            # What is still to be finished is done under the lease, as long as it lasts.
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._release()
        if not work.cancelled():
            work.result()
        return ended

    async def _renew(self) -> None:
        """Renew until that has failed for too long, or another holds the Lease."""
        while self.holds():
            left = self._claim.until - self._clock()
            due = self._retry_seconds if self._problem else self._renew_seconds
            await asyncio.sleep(max(0.0, min(due, left)))
            await self._try()

    async def _try(self) -> bool:
        """Take or renew the Lease, if possible. Whether this process holds it now."""
        began = self._tried_at = self._clock()
        left = self._claim.until - began
        patience = min(self._patience, left) if left > 0 else self._patience
        try:
            async with asyncio.timeout(patience):
                await self._take()
        except (KubeError, TimeoutError) as error:
            text = str(error) or "the API server does not answer"
            if not self._problem.endswith(text):
                log.warning("Lease not read or renewed", error=text, **self._metadata)
            where = "{namespace}/{name}".format(**self._metadata)
            self._problem = f"the Lease {where} cannot be read or renewed: {text}"
        else:
            self._problem = ""
        return self.holds()

    async def _take(self) -> None:
        found = await self._leases.get("Lease", **self._metadata)
        sent = self._clock()
        if found is None:
            if not self._claim.may_make(sent):
                return
            await self._leases.create(self._manifest(self._claim.spec({}, _now())))
        else:
            spec = found.get("spec") or {}
            if not self._claim.may_take(spec, sent):
                self._claim.given_up()
                return
            # With the version that was read: of two that do this at once, one is refused.
            metadata = found["metadata"]
            await self._leases.replace(self._manifest(self._claim.spec(spec, _now()), metadata))
        self._claim.renewed(sent)

    async def _release(self) -> None:
        """Let another follow at once."""
        if not self.holds():
            return
        self._claim.given_up()
        try:
            async with asyncio.timeout(self._patience):
                found = await self._leases.get("Lease", **self._metadata)
                spec = (found or {}).get("spec") or {}
                if found is not None and spec.get("holderIdentity") == self.identity:
                    free = {**spec, "holderIdentity": "", "renewTime": _now()}
                    await self._leases.replace(self._manifest(free, found["metadata"]))
        except (KubeError, TimeoutError) as error:
            log.warning("Lease not given back: the next leader waits for its end", error=str(error))
        else:
            log.info("Lease given back", identity=self.identity)

    def _manifest(self, spec: Object, metadata: Object | None = None) -> Object:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata or self._metadata,
            "spec": spec,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
