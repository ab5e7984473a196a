"""One partition's transactions, on a Kafka in memory: each result once, whoever dies or lingers."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import Figures, Progress, decode
from flowbinding_api.reasons import Reason
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import KafkaUnavailableError, MembershipLostError
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.transactions import lane as transactions_lane
from flowbinding_worker.transactions.lane import Hooks, Lane, Waiting, exactly
from flowbinding_worker.transactions.port import TopicRefusedError
from transaction_fakes import (
    FakeCoordinator,
    FakePort,
    Fault,
    job_of,
    record,
    waiting,
)
from worker_fakes import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions_lane, "HOLD_SECONDS", 0.0)


@dataclass
class Owner:
    """A worker that has the partition, or believes so."""

    coordinator: FakeCoordinator
    tracker: Tracker = field(default_factory=Tracker)
    errors: list[FlowBindingError | None] = field(default_factory=list)
    outdated: list[FlowBindingError] = field(default_factory=list)
    jobs: dict[int, Job] = field(default_factory=dict)
    instance: int = 1

    def __post_init__(self) -> None:
        self.port = FakePort(self.coordinator)
        self.lane = Lane(
            self.port,
            Hooks(
                tracker=lambda: None if self.tracker.retired else self.tracker,
                figures=lambda _: Figures(self.instance, slots=1),
                committed=lambda: None,
                failing=self.errors.append,
                outdated=self.outdated.append,
            ),
        )

    async def begin(self) -> Owner:
        position = await self.lane.open()
        if position is not None:
            progress = decode(position.offset, position.metadata).progress
            self.tracker = Tracker(position.offset, progress)
        return self

    def fetch(self, end: int) -> None:
        start = self.tracker.position or 0
        wanted = self.tracker.fetched([record(o) for o in range(start, end)], end)
        self.jobs |= {r.offset: Job(r, self.tracker) for r in wanted}

    def finish(self, offset: int, topic: str = "out", value: bytes | None = None) -> Waiting:
        item = waiting(self.jobs.pop(offset), topic, value)
        self.lane.put(item)
        return item

    @property
    def progress(self) -> tuple[int, Progress]:
        position = self.coordinator.position
        assert position is not None
        return position.offset, decode(position.offset, position.metadata).progress


async def owner(coordinator: FakeCoordinator | None = None, messages: int = 10) -> Owner:
    made = await Owner(coordinator or FakeCoordinator()).begin()
    made.fetch(messages)
    return made


async def test_results_and_offset_leave_together_in_any_order() -> None:
    one = await owner()
    items = [one.finish(3), one.finish(1)]
    assert not any(item.done.done() for item in items)
    await one.lane.flush()
    assert one.coordinator.values == [b"r3", b"r1"]
    assert one.progress == (0, Progress(4, (0, 2)))
    assert all(item.done.done() for item in items)
    for offset in (0, 2):
        one.finish(offset)
    await one.lane.flush()
    assert one.progress == (4, Progress(4))
    assert one.coordinator.transactions == [2, 2]


async def test_a_slot_is_freed_at_once_but_not_while_kafka_takes_nothing() -> None:
    one = await owner()
    released: list[int] = []
    for job in one.jobs.values():
        job.release = lambda job=job: released.append(job.record.offset)  # type: ignore[misc]
    one.finish(0)
    assert released == [0]
    one.port.faults.append(Fault.LOST)
    await one.lane.flush()
    one.finish(1)
    assert released == [0]
    await one.lane.flush()
    one.finish(2)
    assert released == [0, 2]


async def test_what_is_committed_is_not_committed_again() -> None:
    one = await owner()
    one.finish(0)
    await one.lane.flush()
    assert not await one.lane.flush()
    one.tracker.complete(1)
    await one.lane.flush()
    assert one.coordinator.transactions == [1, 0]
    one.lane.tell = True
    await one.lane.flush()
    assert one.coordinator.transactions == [1, 0, 0]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNKNOWN])
async def test_a_transaction_of_unknown_outcome_is_settled(fault: Fault) -> None:
    one = await owner()
    item = one.finish(0)
    one.port.faults.append(fault)
    await one.lane.flush()
    assert not item.done.done()
    assert isinstance(one.errors[-1], KafkaUnavailableError)
    one.finish(1)
    await one.lane.drain()
    assert item.done.done()
    assert one.coordinator.values == [b"r0", b"r1"]
    assert one.progress == (2, Progress(2))
    assert one.errors[-1] is None


async def test_a_former_owner_writes_nothing_and_notices() -> None:
    coordinator = FakeCoordinator()
    old = await owner(coordinator)
    lost = old.finish(0)
    new = await owner(coordinator)
    new.instance = 2
    new.finish(0)
    await new.lane.flush()
    await old.lane.flush()
    assert coordinator.values == [b"r0"]
    await old.lane.flush()
    assert isinstance(old.outdated[0], MembershipLostError)
    assert not lost.done.done()
    assert not await old.lane.flush()
    new.finish(1)
    await new.lane.drain()
    assert coordinator.values == [b"r0", b"r1"], "the old one's look at things did not stop it"


async def test_a_transaction_without_end_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions_lane, "TRANSACTION_SECONDS", 0.01)
    one = await owner()
    one.finish(0)
    one.port.gate = asyncio.Event()
    await one.lane.flush()
    assert "no end of a transaction" in str(one.errors[-1])
    one.port.gate = None
    await one.lane.flush()
    assert one.coordinator.values == [b"r0"]


async def test_only_the_record_that_is_too_large_is_refused() -> None:
    one = await owner(FakeCoordinator(limit=10))
    items = [one.finish(n, value=b"x" * (20 if n == 2 else 5)) for n in range(4)]
    items[2].too_large = lambda message: ValueError(f"{len(message.value or b'')} bytes")
    await one.lane.drain()
    with pytest.raises(ValueError, match="20 bytes"):
        await items[2].done
    assert len(one.coordinator.written) == 3
    assert one.progress == (2, Progress(4, (2,))), "its message is not done"


async def test_less_is_written_of_a_dead_letter_that_is_too_large() -> None:
    one = await owner(FakeCoordinator(limit=10))
    item = Waiting(
        one.jobs.pop(0),
        deque(Message("dlq", None, b"x" * size, ()) for size in (30, 20, 10)),
        asyncio.get_running_loop().create_future(),
    )
    one.lane.put(item)
    await one.lane.drain()
    assert one.coordinator.values == [b"x" * 10]
    assert item.done.done()


async def test_a_topic_that_takes_nothing_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions_lane, "HOLD_SECONDS", 3600.0)
    one = await owner()
    refusal = TopicRefusedError("dlq", "no such topic", Reason.TOPIC_MISSING)
    one.coordinator.refused["dlq"] = refusal
    dead, good = one.finish(0, "dlq"), one.finish(1)
    await one.lane.drain()
    assert good.done.done()
    assert not dead.done.done()
    assert one.progress == (0, Progress(2, (0,)))
    assert one.errors == [refusal]


async def test_a_transaction_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions_lane, "MOST_RECORDS", 3)
    monkeypatch.setattr(transactions_lane, "MOST_BYTES", 4000)
    one = await owner()
    for n in range(7):
        one.finish(n, value=b"x" * (5000 if n == 3 else 1))
    await one.lane.drain()
    assert one.coordinator.transactions == [3, 1, 3]


async def test_results_of_a_topic_made_anew_are_dropped() -> None:
    one = await owner()
    one.finish(0)
    one.tracker.retire()
    one.tracker = Tracker()
    one.fetch(2)
    one.finish(1)
    await one.lane.flush()
    assert one.coordinator.values == [b"r1"]
    assert one.progress == (0, Progress(2, (0,)))


async def test_a_closed_lane_writes_nothing() -> None:
    one = await owner()
    one.finish(0)
    await one.lane.close()
    assert not await one.lane.flush()
    assert one.coordinator.values == []
    assert one.port.closed


async def test_the_loop_writes_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions_lane, "TICK_SECONDS", 0.01)
    one = await owner()
    one.lane.interval = 0.0
    running = asyncio.create_task(one.lane.run())
    async with asyncio.timeout(10):
        await one.finish(0).done
        one.port.faults += [Fault.LOST, Fault.UNKNOWN]
        await one.finish(1).done
        await one.finish(2).done
        for offset in range(3, 10):
            one.tracker.complete(offset)
        await until(lambda: one.progress[0] == 10)
    running.cancel()
    assert one.coordinator.values == [b"r0", b"r1", b"r2"]


def test_metadata_says_everything_or_nothing() -> None:
    figures = Figures(1, 1, reason="X" * 64, message="y" * 240)
    few = Progress(3000, tuple(range(0, 2000, 2)))
    text = exactly(0, few, figures)
    assert text is not None
    assert decode(0, text).progress == few
    many = Progress(10**10, tuple(range(0, 10**10, 10**7)))
    assert exactly(0, many, figures) is None


async def test_too_many_unfinished_messages_wait() -> None:
    one = await Owner(FakeCoordinator()).begin()
    one.tracker.fetched([record(n * 10**7) for n in range(1001)], 10**11)
    last = job_of(1000 * 10**7, one.tracker)
    item = waiting(last)
    one.lane.put(item)
    await one.lane.flush()
    assert one.coordinator.values == []
    for n in range(500):
        one.tracker.complete(n * 10**7)
    await one.lane.flush()
    assert item.done.done()


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["fetch", "finish", "finish", "flush", "flush", "takeover", "race"]),
        st.integers(0, 50),
        st.sampled_from(list(Fault)),
        st.sampled_from([Fault.NONE, Fault.NONE, Fault.LOST, Fault.UNKNOWN]),
    ),
    # Short ones find nothing.
    min_size=25,
    max_size=60,
)


@given(OPERATIONS)
@settings(max_examples=300)
def test_every_result_is_written_exactly_once(
    operations: list[tuple[str, int, Fault, Fault]],
) -> None:
    """Owners come and linger on, calls fail before and after their effect, batches are partial."""
    with patch.object(transactions_lane, "MOST_RECORDS", 2):
        asyncio.run(_play(operations))


async def _play(operations: list[tuple[str, int, Fault, Fault]]) -> None:
    coordinator = FakeCoordinator()
    owners = [await Owner(coordinator).begin()]
    end = 0
    for what, number, fault, open_fault in operations:
        # Most of the time the newest, but old ones go on as well.
        some = owners[-1] if number % 3 else owners[number % len(owners)]
        if what == "fetch":
            end += number % 4
            some.fetch(max(end, some.tracker.position or 0))
        elif what == "finish" and some.jobs:
            some.finish(sorted(some.jobs)[number % len(some.jobs)])
        elif what == "flush":
            some.port.faults = deque([fault])
            some.port.open_faults = deque([open_fault])
            await some.lane.flush()
        elif what == "takeover":
            owners.append(await Owner(coordinator).begin())
        elif what == "race":
            await asyncio.gather(*(o.lane.flush() for o in owners))
        values = coordinator.values
        assert len(values) == len(set(values)), "a result was written twice"
    await _finish(coordinator, end)


async def _finish(coordinator: FakeCoordinator, end: int) -> None:
    last = await Owner(coordinator).begin()
    last.fetch(max(end, last.tracker.position or 0))
    for offset in list(last.jobs):
        last.finish(offset)
    await last.lane.drain()
    values = sorted(coordinator.values, key=lambda v: int((v or b"r0")[1:]))
    assert values == [b"r%d" % n for n in range(end)]
    if end:
        assert last.progress == (end, Progress(end))
