"""What others say of the messages that they run, for as long as we depend on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping

import structlog

from flowbinding_api.errors import FlowBindingError
from flowbinding_worker.handover import LEASE_SECONDS
from flowbinding_worker.handover.incoming import Incoming
from flowbinding_worker.handover.registers import Registers
from flowbinding_worker.ports import Partition
from flowbinding_worker.work import Work

log = structlog.get_logger(__name__)

ASK_SECONDS = 0.25
"""How often to ask what has become of messages that others run."""
AGAIN_SECONDS = 0.5
"""How often to try again to read what was handed over."""
DEAF_SECONDS = 60.0
"""How long to wait for messages that others run while nothing can be read."""


class Listening:
    """Reads registers, and lets messages go on whose time has come.

    Args:
        work: What waits for others.
        registers: Where they say what runs; None: nobody says anything.
    """

    def __init__(self, work: Work, registers: Registers | None) -> None:
        self._work = work
        self._registers = registers
        self._listen = asyncio.Event()
        self._heard_at = 0.0

    def begin(self) -> None:
        """There may be something to wait for."""
        self._listen.set()

    async def once(self, partitions: Collection[Partition]) -> None:
        """Read all registers of partitions once more, or try to."""
        of = self._work.inheritance.of
        incoming = {p: said for p in partitions if (said := of(p)) is not None}
        if self._registers is None or not incoming:
            return
        with contextlib.suppress(FlowBindingError, TimeoutError):
            await self._registers.read_all(incoming)
        for partition in incoming:
            # Nobody asks again about what is over.
            self._work.reconsider(partition)

    async def run(self) -> None:
        """Ask as long as there is anything to know, until cancelled."""
        while self._registers is not None:
            await self._listen.wait()
            self._listen.clear()
            self._heard_at = time.monotonic()
            while awaited := self._awaited():
                await asyncio.sleep(ASK_SECONDS)
                await self._hear(self._registers, awaited)

    def _awaited(self) -> dict[Partition, set[int]]:
        """Partitions of which others run messages, and the lanes that tell of them."""
        trackers = {**self._work.suspended, **self._work.trackers}
        return {
            p: lanes
            for p, tracker in trackers.items()
            if (incoming := self._work.inheritance.of(p)) is not None
            and (lanes := incoming.awaited(tracker))
        }

    async def _hear(self, registers: Registers, awaited: Mapping[Partition, set[int]]) -> None:
        lanes: defaultdict[int, list[Partition]] = defaultdict(list)
        incoming = {}
        for partition, numbers in awaited.items():
            if (said := self._work.inheritance.of(partition)) is None:
                continue
            incoming[partition] = said
            for lane in numbers:
                lanes[lane].append(partition)
        try:
            await registers.read(lanes, incoming)
        except (FlowBindingError, TimeoutError) as error:
            if time.monotonic() - self._heard_at >= DEAF_SECONDS:
                log.warning("running messages of others given up", error=str(error) or "no answer")
                for said in incoming.values():
                    said.forget()
        else:
            self._heard_at = time.monotonic()
        for partition in incoming:
            self._work.reconsider(partition)

    async def said(self, partitions: Collection[Partition]) -> Mapping[Partition, Incoming]:
        """What earlier owners say of partitions.

        As long as it cannot be read, they may still be running messages, as long as they can say
        so: what cannot be read for a lease is over.
        """
        if self._registers is None or not partitions:
            return {}
        incoming = {p: Incoming() for p in partitions}
        deadline = time.monotonic() + LEASE_SECONDS
        while True:
            try:
                await self._registers.read_all(incoming)
            except (FlowBindingError, TimeoutError) as error:
                final = isinstance(error, FlowBindingError) and not error.retriable
                if final or time.monotonic() >= deadline:
                    text = str(error) or "no answer"
                    log.warning("running messages of others not known", error=text)
                    return incoming
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return incoming
