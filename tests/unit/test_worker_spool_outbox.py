"""Delivering records: order, once each, slots released, while Kafka takes none, or comes back."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.spec import Ordering
from flowbinding_worker.control.retry import Backoff
from flowbinding_worker.delivery import outbox as delivering
from flowbinding_worker.delivery.outbox import Outbox, ResultLostError
from flowbinding_worker.delivery.spool import Spool, open_spool
from flowbinding_worker.delivery.spool_codec import Kind
from flowbinding_worker.delivery.spool_files import SpoolFiles
from flowbinding_worker.trouble import Trouble
from outbox_bench import Bench, Kafka, TooLargeError, job, make, message, until


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivering, "SLOW_SECONDS", 0.02)
        patch.setattr(delivering, "REPORT_SECONDS", 0.02)
        patch.setattr(delivering, "_BACKOFF", Backoff(0.002, 0.004))
        yield


async def test_a_record_that_is_taken_never_touches_the_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    delivery = bench.submit(1)
    await delivery.done
    assert bench.kafka.values == [b"r1"]
    assert bench.released == []
    assert bench.spool.bytes == 0
    await bench.close()


async def test_each_record_becomes_late_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.silent = asyncio.Event()
    released: list[int] = []
    deliveries = []
    for number in range(4):
        what, topic = job(number), f"out-{number}"
        what.release = partial(released.append, number)
        deliveries.append(bench.outbox.submit(what, message(b"r", topic=topic)))
        await until(lambda n=number: len(bench.kafka.asked) > n)
        if number == 2:
            # The fourth begins when nobody is watched any more.
            await until(lambda: len(released) == 3)
    await until(lambda: len(released) == 4)
    assert sorted(released) == [0, 1, 2, 3]
    bench.kafka.silent.set()
    await asyncio.gather(*(delivery.done for delivery in deliveries))
    assert len(bench.kafka.asked) == 4
    await bench.close()


async def test_refused_records_wait_on_disk_and_leave_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    deliveries = []
    for offset in range(5):
        deliveries.append(bench.submit(offset))
        await until(lambda n=offset: n in bench.released)
    assert bench.spool.waiting[Kind.RESULT] == 5
    assert all(delivery.message is None for delivery in deliveries), "on disk, not in memory"
    await until(lambda: bench.trouble.message == "not there; 5 results wait on disk")
    assert bench.trouble.reason == "OutputUnavailable"
    bench.kafka.refusing = False
    await asyncio.gather(*(delivery.done for delivery in deliveries))
    assert bench.kafka.values == [b"r%d" % n for n in range(5)]
    await until(lambda: bench.trouble.reason == "")
    assert bench.spool.waiting.total() == 0
    await bench.close()


async def test_a_record_without_acknowledgement_is_stored_but_not_sent_twice(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.silent = asyncio.Event()
    first = bench.submit(1)
    await until(lambda: bench.released == [1])
    assert "no acknowledgement" in bench.trouble.message
    second = bench.submit(2)
    await until(lambda: bench.released == [1, 2])
    bench.kafka.silent.set()
    await asyncio.gather(first.done, second.done)
    assert bench.kafka.values == [b"r1", b"r2"]
    assert len(bench.kafka.asked) == 2
    await bench.close()


async def test_a_full_disk_keeps_the_slots(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=8192)
    bench.kafka.refusing = True
    deliveries = [bench.submit(n, b"r%d" % n + b"." * 3000, key=b"%d" % n) for n in range(4)]
    await until(lambda: len(bench.released) == 2)
    told = "not there; 2 results wait on disk; the disk has no room for more"
    await until(lambda: bench.trouble.message == told)
    bench.kafka.refusing = False
    await asyncio.gather(*(delivery.done for delivery in deliveries))
    assert sorted(v[:2] for v in filter(None, bench.kafka.values)) == [b"r0", b"r1", b"r2", b"r3"]
    assert len(bench.released) == 2
    await bench.close()


async def test_without_a_disk_everything_waits_in_memory() -> None:
    kafka, trouble = Kafka(refusing=True), Trouble()
    outbox = make(kafka, Spool(None, 0, lambda: None), trouble)
    delivery = outbox.submit(job(), message(b"r"))
    await until(lambda: trouble.message == "not there")
    kafka.refusing = False
    await delivery.done
    assert kafka.values == [b"r"]
    await outbox.close()


async def test_a_record_that_turns_out_too_large_says_so_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    large, small = bench.submit(1, b"large"), bench.submit(2)
    await until(lambda: len(bench.released) == 2)
    bench.kafka.refusing = False
    with pytest.raises(TooLargeError):
        await large.done
    await small.done
    assert bench.kafka.values == [b"r2"]
    assert bench.spool.waiting.total() == 0
    await bench.close()


async def test_topics_do_not_wait_for_each_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    bench.submit(1)
    await until(lambda: bench.released == [1])
    bench.kafka.refusing = False
    bench.kafka.script = ["ack"]
    await bench.outbox.submit(job(2), message(b"r2", topic="elsewhere")).done
    assert b"r2" in bench.kafka.values
    await bench.close()


async def test_after_a_restart_records_are_delivered_for_their_messages(tmp_path: Path) -> None:
    before = Bench(tmp_path)
    before.kafka.refusing = True
    for offset in range(3):
        before.submit(offset)
        await until(lambda n=offset: n in before.released)
    await before.close()
    after = Bench(tmp_path)
    deliveries = []
    for offset in range(3):
        stored = after.spool.find(job(offset).record)
        assert stored is not None
        deliveries.append(after.outbox.resume(job(offset), stored))
    later = after.submit(3)
    await asyncio.gather(*(d.done for d in deliveries), later.done)
    assert after.kafka.values == [b"r0", b"r1", b"r2", b"r3"]
    stored = after.spool.find(job(1).record)
    assert stored is not None
    await after.outbox.resume(job(1), stored).done
    assert len(after.kafka.taken) == 4, "what is delivered is not sent again"
    await after.close()


async def test_a_stored_record_that_is_lost_makes_its_message_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    lost, kept = bench.submit(1), bench.submit(2, key=b"other")
    await until(lambda: len(bench.released) == 2)
    assert lost.stored is not None
    [path] = {*tmp_path.rglob(f"*{lost.stored.file}.spool")}
    data = bytearray(path.read_bytes())
    data[lost.stored.end - 1] ^= 1
    path.write_bytes(data)
    await until(lambda: bench.lost.total() == 1)
    bench.kafka.refusing = False
    with pytest.raises(ResultLostError):
        await lost.done
    await kept.done
    assert bench.kafka.values == [b"r2"]
    assert bench.lost.total() == 1
    await bench.close()


async def test_a_message_that_comes_again_finds_its_record_still_on_its_way(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.silent = asyncio.Event()
    first = bench.submit(1)
    await until(lambda: bench.released == [1])
    first.done.cancel()
    stored = bench.spool.find(job(1).record)
    assert stored is not None
    again = bench.outbox.resume(job(1), stored)
    bench.kafka.silent.set()
    await again.done
    assert bench.kafka.values == [b"r1"]
    await bench.close()


async def test_a_record_given_up_while_it_is_stored_can_be_delivered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    disk, write = threading.Event(), SpoolFiles.write

    def slow(files: SpoolFiles, frames: Sequence[bytes]) -> int:
        assert disk.wait(10)
        return write(files, frames)

    monkeypatch.setattr(SpoolFiles, "write", slow)
    delivery = bench.submit(1)
    await until(lambda: bench.trouble.reason == "OutputUnavailable")
    delivery.done.cancel()
    await until(lambda: bench.trouble.reason == "")
    disk.set()
    again = job(1)
    await until(lambda: bench.spool.find(again.record) is not None)
    bench.kafka.refusing = False
    stored = bench.spool.find(again.record)
    assert stored is not None
    async with asyncio.timeout(10):
        await bench.outbox.resume(again, stored).done
    assert bench.kafka.values == [b"r1"]
    await bench.close()


async def test_a_stored_record_that_made_room_is_not_counted_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    bench.submit(1)
    await until(lambda: bench.released == [1])
    await bench.close()
    bench = Bench(tmp_path, limit=4096)
    again = job(1)
    stored = bench.spool.find(again.record)
    assert stored is not None
    bench.kafka.refusing = True
    bench.submit(2, key=b"other")
    await until(lambda: bench.released == [2])
    delivery = bench.outbox.resume(again, stored)
    bench.kafka.refusing = False
    with pytest.raises(ResultLostError):
        await delivery.done
    await until(lambda: bench.kafka.values == [b"r2"])
    await until(lambda: bench.trouble.reason == "")
    assert bench.spool.waiting[Kind.RESULT] == 0
    await bench.close()


@pytest.mark.parametrize("how", ["cancelled", "retired"])
async def test_nothing_is_sent_for_messages_that_are_somebody_elses(
    tmp_path: Path, how: str
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    gone, kept = bench.submit(1), bench.submit(2)
    # What the client has in hand cannot be called back.
    await until(lambda: len(bench.released) == 2 and not bench.kafka.busy)
    if how == "cancelled":
        gone.done.cancel()
    else:
        gone.job.tracker.retire()
    bench.kafka.refusing = False
    await kept.done
    assert bench.kafka.values == [b"r2"]
    stored = bench.spool.find(job(1).record)
    assert stored is not None, "it may still be of use"
    assert stored.owner is None
    await bench.close()


async def test_after_a_fault_what_comes_later_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    bench = Bench(tmp_path)
    bench.kafka.refusing = True
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_tell", broken)
        with pytest.raises(ZeroDivisionError):
            await bench.submit(1).done
    bench.kafka.refusing = False
    async with asyncio.timeout(5):
        await bench.submit(2).done
    assert b"r2" in bench.kafka.values
    await bench.close()


@pytest.mark.parametrize("turns", range(5))
async def test_closing_ends_also_at_the_moment_that_there_is_work(
    tmp_path: Path, turns: int
) -> None:
    bench = Bench(tmp_path)
    bench.kafka.silent = asyncio.Event()
    bench.submit(1)
    await until(lambda: bench.released == [1])
    # The pump is woken and cancelled in one turn of the loop, or a few apart.
    bench.submit(2)
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await bench.close()


steps = st.sampled_from(["ack", "ack", "fail", "slow", "slow fail"])
sources = st.tuples(st.integers(0, 1), st.sampled_from([None, b"a", b"b", b"c"]))


@dataclass
class Run:
    """Records of messages, each chain one after the other, as the scheduler has it."""

    ordering: Ordering
    outbox: Outbox
    chains: dict[object, asyncio.Lock] = field(default_factory=dict)

    async def one(self, number: int, partition: int, key: bytes | None) -> None:
        chain: object = number
        if self.ordering is Ordering.PARTITION:
            chain = partition
        elif self.ordering is Ordering.KEY and key is not None:
            chain = partition, key
        async with self.chains.setdefault(chain, asyncio.Lock()):
            free = asyncio.Event()
            what = job(number, key, partition)
            what.release = free.set
            delivery = self.outbox.submit(what, message(b"%d" % number, key))
            delivery.done.add_done_callback(lambda _: free.set())
            await free.wait()
        await delivery.done


@settings(max_examples=60)
@given(
    st.lists(sources, min_size=1, max_size=25),
    st.lists(steps, max_size=40),
    st.sampled_from(Ordering),
    st.sampled_from([0, 16384, 1 << 20]),
)
def test_everything_is_delivered_once_and_in_order(
    messages: list[tuple[int, bytes | None]], script: list[str], ordering: Ordering, limit: int
) -> None:
    async def scenario(folder: Path) -> None:
        kafka, trouble = Kafka(script=script), Trouble()
        spool = open_spool(folder, "g", limit, lambda: None)
        outbox = make(kafka, spool, trouble, ordering)
        run = Run(ordering, outbox)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for number, source in enumerate(messages):
                group.create_task(run.one(number, *source))
        values = [int(value or b"") for value in kafka.values]
        assert sorted(values) == list(range(len(messages)))
        for lane in set(messages):
            of_lane = [n for n in values if messages[n] == lane]
            if ordering is Ordering.KEY and lane[1] is not None:
                assert of_lane == sorted(of_lane)
        for partition in (0, 1):
            of_partition = [n for n in values if messages[n][0] == partition]
            if ordering is Ordering.PARTITION:
                assert of_partition == sorted(of_partition)
        await until(lambda: trouble.reason == "")
        assert spool.waiting.total() == 0
        await outbox.close()
        await spool.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))
