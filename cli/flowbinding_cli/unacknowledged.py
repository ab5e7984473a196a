"""Messages that Kafka has not acknowledged yet: waited for, within bounds and not in silence.

An idempotent producer tries again for as long as it lives, so somebody else has to give up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from flowbinding_cli.kafka import KafkaTroubleError, told
from flowbinding_cli.output import note

SLOW_SECONDS = 3.0
"""No acknowledgement for so long is told."""
GIVE_UP_SECONDS = 30.0
"""No acknowledgement for so long is an error."""
SHOWN = 5
"""Partitions that are named at most."""


class UnacknowledgedError(KafkaTroubleError):
    """Kafka did not acknowledge a message in time."""


class Unacknowledged:
    """Messages on their way, oldest first. Use as an async context manager: its end waits for all.

    Args:
        topic: Where they go.
        why: Asks Kafka what the topic lacks; empty when it does not know.
        acknowledged: Takes aiokafka's RecordMetadata of each message.
    """

    def __init__(
        self,
        topic: str,
        why: Callable[[], Awaitable[str]],
        acknowledged: Callable[[Any], None],
    ) -> None:
        self._topic = topic
        self._why = why
        self._acknowledged = acknowledged
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._since = 0.0
        """When the oldest became that, by the loop's clock."""

    def __len__(self) -> int:
        """Messages that are not acknowledged."""
        return len(self._waiting)

    async def __aenter__(self) -> Unacknowledged:
        """Begin."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Wait: what was sent before an error counts too.

        Raises:
            KafkaTroubleError: Kafka refuses one of them, or acknowledges none for 30 s.
        """
        try:
            if isinstance(error, asyncio.CancelledError) and self._waiting:
                # Who presses Ctrl-C does not want to wait for a broker that is away.
                await asyncio.wait(self._waiting, timeout=SLOW_SECONDS)
            elif not isinstance(error, UnacknowledgedError | asyncio.CancelledError):
                refused = await self._all()
                if refused is not None and not isinstance(error, KafkaTroubleError):
                    raise refused
        finally:
            self._count()

    async def send(self, send: Callable[[], Awaitable[asyncio.Future[Any]]], most: int) -> None:
        """Send a message, after others when too many wait.

        Args:
            send: Gives a message to the producer.
            most: Messages that wait at most.

        Raises:
            KafkaTroubleError: Kafka refuses one of them, or acknowledges none for 30 s.
        """
        while True:
            try:
                async with asyncio.timeout(SLOW_SECONDS if self._waiting else None):
                    with told(f"topic {self._topic}"):
                        self._waiting.append(await send())
                break
            except TimeoutError:
                # The producer's own buffer is full.
                await self._oldest()
        if len(self._waiting) == 1:
            self._since = _now()
        await self._take()
        while len(self._waiting) >= most or (
            self._waiting and _now() - self._since >= SLOW_SECONDS
        ):
            await self._oldest()

    async def _take(self) -> None:
        while self._waiting and self._waiting[0].done():
            self._since = _now()
            with told(f"topic {self._topic}"):
                self._acknowledged(await self._waiting.popleft())

    async def _all(self) -> KafkaTroubleError | None:
        """Wait for all; gives the first refusal, if there is one."""
        first: KafkaTroubleError | None = None
        while self._waiting:
            try:
                await self._oldest()
            except UnacknowledgedError:
                raise
            except KafkaTroubleError as refused:
                first = first or refused
        return first

    def _count(self) -> None:
        """Leave those of which nothing is known: later ones may be acknowledged before earlier."""
        unknown: deque[asyncio.Future[Any]] = deque()
        for sent in self._waiting:
            if not sent.done():
                unknown.append(sent)
            elif not sent.cancelled() and sent.exception() is None:
                self._acknowledged(sent.result())
        self._waiting = unknown

    async def _oldest(self) -> None:
        oldest = self._waiting[0]
        if not await _within(SLOW_SECONDS, oldest):
            lack = await self._lack()
            left = GIVE_UP_SECONDS - SLOW_SECONDS
            note(f"{self._late(SLOW_SECONDS, lack)}; trying for another {left:g} s")
            if not await _within(left, oldest):
                raise UnacknowledgedError(self._late(GIVE_UP_SECONDS, await self._lack()))
        await self._take()

    async def _lack(self) -> str:
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                return await self._why()
        except (KafkaTroubleError, TimeoutError):
            return "no broker answers"

    def _late(self, seconds: float, lack: str) -> str:
        reason = f": {lack}" if lack else ""
        return f"topic {self._topic}: no acknowledgement for {seconds:g} s{reason}"


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _within(seconds: float, future: asyncio.Future[Any]) -> bool:
    done, _ = await asyncio.wait((future,), timeout=seconds)
    return bool(done)


def lacking(partitions: Iterable[Mapping[str, Any]], min_in_sync: int | None) -> str:
    """What keeps Kafka from acknowledging messages to a topic.

    Args:
        partitions: Its partitions as Kafka's metadata has them: `partition`, `leader`, `replicas`
            and `isr`.
        min_in_sync: Its min.insync.replicas; None when we may not see it.

    Returns:
        The reason; empty when nothing is seen.
    """
    known = sorted(partitions, key=lambda item: int(item["partition"]))
    leaderless = [item["partition"] for item in known if item["leader"] < 0]
    if leaderless:
        return f"no leader for {_named(leaderless)}"
    few = [
        item["partition"]
        for item in known
        if len(item["isr"]) < (min_in_sync or len(item["replicas"]))
    ]
    if not few:
        return ""
    setting = "" if min_in_sync is None else f" (min.insync.replicas is {min_in_sync})"
    return f"too few replicas are in sync in {_named(few)}{setting}"


def _named(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    return f"partition{'' if len(numbers) == 1 else 's'} {shown}"
