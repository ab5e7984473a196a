"""Reading and writing registers: the metadata of offsets committed for groups that nobody joins."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import structlog

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.varints import MetadataError
from flowbinding_worker.handover import LANES
from flowbinding_worker.handover.entry import Entry, decode, encode
from flowbinding_worker.handover.incoming import Incoming
from flowbinding_worker.handover.offsets import OffsetsPort
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.kafka.port import Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.waiting import within

log = structlog.get_logger(__name__)

WRITE_SECONDS = 2.0
READ_SECONDS = 2.0


def register_group(group: str, lane: int) -> str:
    """The helper group that holds the registers of a lane."""
    return f"{group}.handoff" + (f"-{lane}" if lane else "")


class Registers:
    """What this worker says to others, and what they say.

    Args:
        group: The consumer group.
        offsets: Reads and writes offsets.
        metrics: Counts.
        clock: Steady seconds.
    """

    def __init__(
        self,
        group: str,
        offsets: OffsetsPort,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offsets = offsets
        self.group = group
        self._metrics = metrics
        self._clock = clock
        # Of the process, not of the Pod: a container that starts again knows nothing of the former.
        self._instance = secrets.randbits(32)
        self._beat = 0
        self._outgoing: dict[tuple[Partition, int], Outgoing] = {}
        self._failing = False
        # Of two writes at once, the older could arrive last.
        self._lock = asyncio.Lock()

    @property
    def speaking(self) -> bool:
        """Whether there is anything that others do not know yet, or must be told again."""
        return bool(self._outgoing)

    def open(self, partition: Partition, lane: int, outgoing: Outgoing) -> None:
        """Say something from now on, with each `flush`, until it is settled or expires."""
        self._outgoing[partition, lane] = outgoing

    def clear(self, incoming: Mapping[Partition, Incoming]) -> None:
        """Forget what was read, and empty these registers with the next `flush`.

        Except those in which this worker has something to say itself.
        """
        for partition, said in incoming.items():
            for lane in said.forget():
                self._metrics.metadata_ignored.inc()
                # Its writer may be there still, and does not know that nobody listens.
                nothing = Outgoing({}, self._clock, alone=False)
                self._outgoing.setdefault((partition, lane), nothing)

    async def flush(self) -> None:
        """Write what is due; what fails is tried again by the next.

        The word that closes a register is said once, and never again: whoever reads it may write
        over it.
        """
        async with self._lock:
            await self._write({key: o for key, o in self._outgoing.items() if o.due})
            over = {key: o for key, o in self._outgoing.items() if o.over}
            self._outgoing = {key: o for key, o in self._outgoing.items() if key not in over}
            await self._write({key: o for key, o in over.items() if o.closable}, closed=True)

    async def read(
        self, wanted: Mapping[int, Collection[Partition]], incoming: Mapping[Partition, Incoming]
    ) -> None:
        """Read registers, side by side.

        Args:
            wanted: Partitions by lane.
            incoming: Where to put what is said of each.

        Raises:
            FlowBindingError: Some could not be read; the others were.
            TimeoutError: The same.
        """
        results = await asyncio.gather(
            *(self._read(lane, partitions, incoming) for lane, partitions in wanted.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def read_all(self, incoming: Mapping[Partition, Incoming]) -> None:
        """Read all registers of partitions; see `read`."""
        await self.read({lane: incoming.keys() for lane in range(LANES)}, incoming)

    async def close(self) -> None:
        """Disconnect."""
        await self.offsets.close()

    async def _write(
        self, what: Mapping[tuple[Partition, int], Outgoing], *, closed: bool = False
    ) -> None:
        lanes: defaultdict[int, dict[Partition, Outgoing]] = defaultdict(dict)
        for (partition, lane), outgoing in what.items():
            lanes[lane][partition] = outgoing
        await asyncio.gather(*(self._write_lane(n, lane, closed) for n, lane in lanes.items()))

    async def _write_lane(
        self, lane: int, what: Mapping[Partition, Outgoing], closed: bool
    ) -> None:
        sent_at = self._clock()
        self._beat += 1
        versions, positions = {}, {}
        for partition, outgoing in what.items():
            version, items = outgoing.say()
            text = encode(self._instance, self._beat, items, closed=closed)
            if text is not None:
                versions[partition] = version
                positions[partition] = Position(0, text)
        writing = self.offsets.write(register_group(self.group, lane), positions)
        try:
            await within(writing, WRITE_SECONDS)
        except (FlowBindingError, TimeoutError) as error:
            if not self._failing:
                log.warning("running messages not announced", error=str(error) or "no answer")
            self._failing = True
        else:
            self._failing = False
            for partition, version in versions.items():
                what[partition].acknowledged(version, sent_at)

    async def _read(
        self, lane: int, partitions: Collection[Partition], incoming: Mapping[Partition, Incoming]
    ) -> None:
        asked_at = self._clock()
        reading = self.offsets.read(register_group(self.group, lane), partitions)
        found = await within(reading, READ_SECONDS)
        answered_at = self._clock()
        for partition in partitions:
            entry = self._entry(found.get(partition))
            incoming[partition].read(lane, entry, asked_at, answered_at)

    def _entry(self, position: Position | None) -> Entry | None:
        if position is None:
            return None
        try:
            return decode(position.metadata)
        except MetadataError as error:
            self._metrics.metadata_ignored.inc()
            log.warning("register ignored", error=str(error))
            return None
