"""Dead letters are replayed exactly once each, whatever happens to the replay."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

import kafkaio
from integration import command
from integration.command import Desk
from integration.worker_process import WorkerProcess, until
from kafkaio import TopicFactory
from testbed import KafkaBroker

# Each command is a process, and processes start slowly beside others.
pytestmark = pytest.mark.timeout(180)

MANY = 8000


@pytest.fixture
async def desk(kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path) -> Desk:
    return Desk(tmp_path, kafka.bootstrap, await topic(), await topic())


async def settled(desk: Desk, what: str, *arguments: str) -> dict[str, Any]:
    """Replay or drop. What came of it."""
    out = await command.succeed("dead-letters", what, desk.file, *arguments, "-o", "json")
    found: dict[str, Any] = json.loads(out)
    return found


async def listed(desk: Desk, *arguments: str) -> list[str]:
    """Messages whose dead letters are listed, in the order of their numbers."""
    out = await command.succeed("dead-letters", "list", desk.file, *arguments, "-o", "json")
    return sorted((item["key"] for item in json.loads(out)), key=lambda key: int(key[1:]))


async def replayed(desk: Desk) -> Counter[str]:
    """Messages in the source topic as a worker sees them, with how often they are there."""
    records = await kafkaio.read_all(desk.bootstrap, desk.source)
    return Counter(record.value.decode() for record in records if record.value)


def each_once(count: int) -> Counter[str]:
    return Counter(f"m{n}" for n in range(count))


def names(*numbers: int) -> list[str]:
    return [f"k{n}" for n in numbers]


async def test_letters_go_back_as_they_came(desk: Desk) -> None:
    await desk.fail(range(6))
    assert (await settled(desk, "replay"))["replayed"] == 6
    records: list[ConsumerRecord] = await kafkaio.read_all(desk.bootstrap, desk.source)
    assert {(record.partition, record.key, record.value, record.headers) for record in records} == {
        (
            n % 3,
            f"k{n}".encode(),
            f"m{n}".encode(),
            (("n", str(n).encode()), ("n", b"again"), ("none", None)),
        )
        for n in range(6)
    }


async def test_a_second_replay_finds_nothing_to_do(desk: Desk) -> None:
    await desk.fail(range(250))
    assert (await settled(desk, "replay"))["written"] == {desk.source: 250}
    assert (await settled(desk, "replay"))["replayed"] == 0
    assert await replayed(desk) == each_once(250)
    assert await listed(desk) == []
    await desk.fail([250])
    assert await listed(desk) == names(250)
    assert (await settled(desk, "replay"))["replayed"] == 1


async def test_what_a_filter_leaves_out_stays_listed(desk: Desk) -> None:
    await desk.fail(range(0, 20, 2), "Late")
    await desk.fail(range(1, 20, 2), "Early")
    assert (await settled(desk, "replay", "--reason", "early"))["left"] == 10
    assert await listed(desk) == names(*range(0, 20, 2))
    assert (await settled(desk, "replay", "--source-partition", "2", "--limit", "2"))[
        "replayed"
    ] == 2
    assert await listed(desk) == names(0, 4, 6, 10, 12, 14, 16, 18)
    assert (await settled(desk, "drop", "--yes", "--source-partition", "0"))["dropped"] == 4
    assert await listed(desk) == names(4, 10, 14, 16)
    assert await listed(desk, "--all") == names(*range(20))
    assert (await settled(desk, "replay"))["replayed"] == 4
    assert await listed(desk) == []
    dropped = {f"m{n}" for n in (0, 6, 12, 18)}
    assert await replayed(desk) == Counter(set(each_once(20)) - dropped)


async def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    await desk.fail(range(5))
    assert (await settled(desk, "replay", "--dry-run"))["replayed"] == 5
    assert (await settled(desk, "drop", "--dry-run"))["dropped"] == 5
    assert await listed(desk) == names(*range(5))
    assert await replayed(desk) == Counter()
    assert await desk.progress() == {}


async def test_letters_of_another_binding_in_the_same_topic_are_left_alone(desk: Desk) -> None:
    await desk.fail(range(3))
    await desk.fail(range(3, 6), group="another")
    await desk.write_letters([(0, b"k9", b"not a dead letter", [])])
    await desk.fail(range(6, 9))
    assert (await settled(desk, "replay"))["replayed"] == 6
    assert await listed(desk, "--all") == names(0, 1, 2, 6, 7, 8)


async def test_another_topic_takes_them_too(desk: Desk, topic: TopicFactory) -> None:
    other = await topic(1)
    await desk.fail(range(4))
    assert (await settled(desk, "replay", "--to", other))["written"] == {other: 4}
    assert await replayed(desk) == Counter()
    for wrong in (desk.letters, "no-such-topic"):
        result = await command.run("dead-letters", "replay", desk.file, "--to", wrong)
        assert result.code == 1
        assert f"--to {wrong}" in result.err


async def test_a_letter_without_its_value_is_kept(desk: Desk) -> None:
    await desk.fail(range(2))
    cut = [("flowbinding-group", desk.group.encode()), ("flowbinding-truncated", b"value")]
    await desk.write_letters([(0, b"k7", None, cut)])
    outcome = await settled(desk, "replay")
    assert outcome["replayed"] == 2
    assert list(outcome["kept"].values()) == [1]
    assert await listed(desk) == names(7)
    assert (await settled(desk, "drop", "--yes"))["dropped"] == 1
    assert await listed(desk) == []


async def test_one_letter_in_full(desk: Desk) -> None:
    await desk.fail([4])
    shown = json.loads(await command.succeed("dead-letters", "show", desk.file, "1-0", "-ojson"))
    assert shown["id"] == f"{desk.letters}-1-0"
    assert (shown["key"], shown["value"], shown["reason"]) == ("k4", "m4", "FlowFailed")
    assert shown["source"] == {"topic": desk.source, "partition": 1, "offset": 4}
    assert shown["headers"][0] == {"name": "n", "value": "4"}
    assert shown["about"]["exception.message"] == "no answer to 4"
    result = await command.run("dead-letters", "show", desk.file, "1-1")
    assert (result.code, result.err.count("\n")) == (1, 1), result


async def test_kills_in_the_middle_neither_lose_nor_repeat(desk: Desk) -> None:
    await desk.fail(range(MANY))
    before = 0
    for _ in range(3):
        process = await command.start("dead-letters", "replay", desk.file)
        before = await beyond(desk, before)
        process.kill()
        await process.wait()
    assert before < MANY
    await settled(desk, "replay")
    assert await replayed(desk) == each_once(MANY)
    assert (await settled(desk, "replay"))["replayed"] == 0


async def test_of_two_at_a_time_the_later_one_goes_on(desk: Desk) -> None:
    await desk.fail(range(MANY))
    first = await command.start("dead-letters", "replay", desk.file)
    before = await beyond(desk, 0)
    # Held until the other one has begun: commands start slowly, and replay fast.
    first.send_signal(signal.SIGSTOP)
    second = await command.start("dead-letters", "replay", desk.file)
    try:
        await beyond(desk, before)
    finally:
        first.send_signal(signal.SIGCONT)
    assert (await command.ended(second)).code == 0
    result = await command.ended(first)
    assert result.code == 1
    assert "another process has taken over" in result.err
    assert await replayed(desk) == each_once(MANY)


async def test_two_that_begin_together_do_not_repeat(desk: Desk) -> None:
    await desk.fail(range(300))
    both = [await command.start("dead-letters", "replay", desk.file) for _ in range(2)]
    codes = [(await command.ended(process)).code for process in both]
    assert 0 in codes
    assert await replayed(desk) == each_once(300)


async def test_one_that_slept_through_another_writes_nothing_more(desk: Desk) -> None:
    await desk.fail(range(MANY))
    first = await command.start("dead-letters", "replay", desk.file)
    await beyond(desk, 0)
    first.send_signal(signal.SIGSTOP)
    try:
        await settled(desk, "drop", "--yes", "--reason", "FlowFailed")
        there = await replayed(desk)
    finally:
        first.send_signal(signal.SIGCONT)
    assert (await command.ended(first)).code == 1
    assert await replayed(desk) == there
    assert max(there.values()) == 1
    assert await listed(desk) == []


async def test_foreign_progress_is_told_and_not_ignored(desk: Desk) -> None:
    await desk.fail(range(3))
    await settled(desk, "replay")
    [tp, *_] = await desk.progress()
    await kafkaio.commit(desk.bootstrap, f"{desk.group}.replay", {tp: (0, "mine")})
    result = await command.run("dead-letters", "replay", desk.file)
    assert result.code == 1
    assert "not written by a replay" in result.err


async def test_offsets_that_a_user_resets_count(desk: Desk) -> None:
    await desk.fail([0, 3, 6])
    await settled(desk, "replay")
    [tp] = [tp for tp in await desk.progress() if tp.partition == 0]
    await kafkaio.commit(desk.bootstrap, f"{desk.group}.replay", {tp: 1})
    assert await listed(desk) == names(3, 6)


async def test_the_whole_circle(kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path) -> None:
    """Messages that fail become dead letters; repaired and replayed, each is processed once."""
    source, letters, output = await topic(), await topic(), await topic()
    desk = Desk(tmp_path, kafka.bootstrap, source, letters)
    desk.write(
        source={**desk.spec["source"], "format": "JSON"},
        output={"topic": output, "value": "{{ result }}"},
    )
    texts = [argument for n in range(20) for argument in ("--text", f"m{n}")]
    await command.succeed("produce", desk.file, *texts)
    async with worker(tmp_path, desk) as running:
        await kafkaio.read_until(desk.bootstrap, letters, 20)
        # In order: for a killed one the group would wait.
        assert await running.terminate() == 0
    assert await drained(desk)
    assert len(json.loads(await command.succeed("dead-letters", "list", desk.file, "-ojson"))) == 20

    desk.write(source={**desk.spec["source"], "format": "Text"})
    async with worker(tmp_path, desk) as running:
        assert (await settled(desk, "replay"))["replayed"] == 20
        assert (await settled(desk, "replay"))["replayed"] == 0
        results = await kafkaio.read_until(desk.bootstrap, output, 20)
        await until(lambda: drained(desk), what="all is committed")
        assert await running.metric('messages_total{outcome="deadLettered"}') == 0
    assert Counter(record.value.decode() for record in results) == each_once(20)
    assert len(await kafkaio.read_all(desk.bootstrap, output)) == 20


def worker(folder: Path, desk: Desk) -> WorkerProcess:
    document = {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {"name": "desk", "namespace": "it"},
        "spec": desk.spec,
    }
    return WorkerProcess(folder, document)


async def drained(desk: Desk) -> bool:
    # The marker of each replay's transaction is an offset too.
    return await kafkaio.lag(desk.bootstrap, desk.group, desk.source) <= 3


async def beyond(desk: Desk, before: int) -> int:
    """Wait until a replay has settled more than `before` letters. Returns how many."""
    async with asyncio.timeout(60):
        while True:
            done = sum(offset for offset, _ in (await desk.progress()).values())
            if done > before:
                return done
