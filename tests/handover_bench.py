"""Workers on an in-memory Kafka that hand running messages to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from broker_fakes import P0, FakeBroker
from flowbinding_worker.handover.entry import decode, encode
from flowbinding_worker.handover.registers import register_group
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position
from flowbinding_worker.ports import Partition
from worker_fakes import FakeFlow, Gate, Worker

KEY = b"k"
OTHERS = 4711
"""Number of a worker that is not there."""
UNWRITABLE = KafkaUnavailableError("not authorized", retriable=False)


def worker(
    broker: FakeBroker,
    gate: Gate | FakeFlow,
    *partitions: Partition,
    spec: dict[str, Any] | None = None,
) -> Worker:
    """One that gets `partitions` when it starts."""
    made = Worker(broker, gate if isinstance(gate, FakeFlow) else FakeFlow(gate), spec)
    made.consumer.on_start = partitions
    return made


def fill_registers(made: Worker, lanes: Iterable[int]) -> None:
    """Put into registers of P0 what others have left there, over and not closed."""
    for lane in lanes:
        group = register_group(made.binding.consumer_group, lane)
        made.broker.registers[group, P0] = Position(0, encode(OTHERS, 9, {}) or "")


def closed(broker: FakeBroker) -> int:
    return sum(decode(p.metadata).closed for p in broker.registers.values())


async def hand_out(workers: Sequence[tuple[Worker, list[Partition]]]) -> None:
    """A rebalance of the whole group."""
    await asyncio.gather(*(w.consumer.revoke() for w, _ in workers))
    workers[0][0].broker.generation += 1
    await asyncio.gather(*(w.consumer.assign_again(partitions) for w, partitions in workers))
