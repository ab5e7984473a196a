"""`flowbinding produce` while Kafka acknowledges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flowbinding_cli import unacknowledged
from flowbinding_cli.kafka import KafkaTroubleError
from flowbinding_cli.unacknowledged import Unacknowledged, UnacknowledgedError, lacking

SLOW, LIMIT = 0.02, 0.06


class Producer:
    """Takes messages, and acknowledges them when it is told to."""

    def __init__(self, room: int = 1000) -> None:
        self.room = asyncio.Semaphore(room)
        self.sent: list[asyncio.Future[int]] = []

    async def send(self) -> asyncio.Future[int]:
        await self.room.acquire()
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]

    def acknowledge(self) -> None:
        for number, future in enumerate(self.sent):
            if not future.done():
                future.set_result(number)
                self.room.release()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unacknowledged, "SLOW_SECONDS", SLOW)
    monkeypatch.setattr(unacknowledged, "GIVE_UP_SECONDS", LIMIT)


def sending(producer: Producer, taken: list[int], *, heal: bool = False) -> Unacknowledged:
    async def why() -> str:
        if heal:
            producer.acknowledge()
        return "no leader for partition 2"

    return Unacknowledged("in", why, taken.append)


async def all_sent(
    acknowledgements: Unacknowledged,
    producer: Producer,
    count: int = 1,
    most: int = 1000,
    then: Callable[[], None] = lambda: None,
) -> None:
    async with acknowledgements:
        for _ in range(count):
            await acknowledgements.send(producer.send, most)
        then()


async def test_what_it_waits_for_is_told_once_then_it_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    producer, taken = Producer(), list[int]()
    await all_sent(sending(producer, taken, heal=True), producer, 3)
    assert taken == [0, 1, 2]
    assert capsys.readouterr().err == (
        "topic in: no acknowledgement for 0.02 s: no leader for partition 2;"
        " trying for another 0.04 s\n"
    )


async def test_it_ends_in_an_error_and_not_in_a_second_wait() -> None:
    producer, taken = Producer(), list[int]()
    acknowledgements = sending(producer, taken)
    with pytest.raises(
        UnacknowledgedError,
        match=r"^topic in: no acknowledgement for 0\.06 s: no leader for partition 2$",
    ):
        await all_sent(acknowledgements, producer, 3, most=2)
    assert (taken, len(acknowledgements)) == ([], 2)


@pytest.mark.parametrize(("room", "most"), [(1000, 2), (2, 1000)], ids=["ours", "the producer's"])
async def test_a_full_buffer_waits_for_the_oldest(room: int, most: int) -> None:
    producer, taken = Producer(room), list[int]()
    async with sending(producer, taken, heal=True) as acknowledgements:
        for _ in range(5):
            await acknowledgements.send(producer.send, most)
            assert len(acknowledgements) <= 2
    assert taken == [0, 1, 2, 3, 4]


async def test_a_refusal_is_told_with_the_topic() -> None:
    producer = Producer()

    def refuse() -> None:
        producer.sent[0].set_exception(OSError("broken"))

    with pytest.raises(KafkaTroubleError, match=r"^topic in: broken$"):
        await all_sent(sending(producer, []), producer, then=refuse)


async def test_after_a_refusal_what_is_written_counts_and_the_refused_are_not_unknown() -> None:
    producer, taken = Producer(), list[int]()
    acknowledgements = sending(producer, taken)

    def refuse_most() -> None:
        for number, future in enumerate(producer.sent):
            if number == 2:
                future.set_result(2)
            else:
                future.set_exception(OSError(f"broken {number}"))

    with pytest.raises(KafkaTroubleError, match=r"^topic in: broken 0$"):
        await all_sent(acknowledgements, producer, 4, then=refuse_most)
    assert (taken, len(acknowledgements)) == ([2], 0)


async def test_a_stuck_partition_does_not_hide_what_the_others_acknowledged() -> None:
    producer, taken = Producer(), list[int]()
    acknowledgements = sending(producer, taken)

    def acknowledge_others() -> None:
        for number in (1, 2):
            producer.sent[number].set_result(number)

    with pytest.raises(UnacknowledgedError):
        await all_sent(acknowledgements, producer, 4, then=acknowledge_others)
    assert (taken, len(acknowledgements)) == ([1, 2], 2)


async def test_who_sends_slowly_is_told_as_soon() -> None:
    producer, taken = Producer(), list[int]()
    async with asyncio.timeout(5), sending(producer, taken, heal=True) as acknowledgements:
        while not taken:
            await acknowledgements.send(producer.send, 1_000_000)
            await asyncio.sleep(0)
            producer.room.release()


async def test_an_interrupted_command_waits_a_little_for_what_is_sent() -> None:
    producer, taken = Producer(), list[int]()
    acknowledgements = sending(producer, taken)

    def interrupt() -> None:
        producer.sent[1].set_result(1)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await all_sent(acknowledgements, producer, 2, then=interrupt)
    assert (taken, len(acknowledgements)) == ([1], 1)


async def test_when_nobody_can_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    async def why() -> str:
        raise KafkaTroubleError("topics: nobody there")

    producer = Producer()
    with pytest.raises(UnacknowledgedError, match=r"for 0\.06 s: no broker answers$"):
        await all_sent(Unacknowledged("in", why, print), producer)
    assert "0.02 s: no broker answers; trying" in capsys.readouterr().err


def partition(number: int, in_sync: int, leader: int = 1) -> Mapping[str, Any]:
    isr = list(range(in_sync))
    return {"partition": number, "leader": leader, "replicas": [0, 1, 2], "isr": isr}


@pytest.mark.parametrize(
    ("partitions", "wanted", "says"),
    [
        ([partition(1, 2), partition(0, 3)], 2, ""),
        (
            [partition(2, 1), partition(0, 1), partition(1, 2)],
            2,
            "too few replicas are in sync in partitions 0, 2 (min.insync.replicas is 2)",
        ),
        ([partition(0, 2)], None, "too few replicas are in sync in partition 0"),
        ([partition(0, 1), partition(1, 0, leader=-1)], 2, "no leader for partition 1"),
        (
            [partition(n, 1) for n in range(7)],
            3,
            "too few replicas are in sync in partitions 0, 1, 2, 3, 4, …"
            " (min.insync.replicas is 3)",
        ),
    ],
)
def test_what_a_topic_lacks(
    partitions: list[Mapping[str, Any]], wanted: int | None, says: str
) -> None:
    assert lacking(partitions, wanted) == says
