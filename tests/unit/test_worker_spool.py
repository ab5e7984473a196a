"""Records on disk: what is stored is there after a crash, and nothing broken is ever believed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flowbinding_worker.delivery import spool as spooling
from flowbinding_worker.delivery.spool import open_spool
from flowbinding_worker.delivery.spool_codec import Kind, encode
from flowbinding_worker.delivery.spool_files import BLOCK_BYTES, SpoolFiles
from flowbinding_worker.ports import Partition
from spool_bench import MIB, Broken, entry, files, opened, record, stored


async def test_no_file_before_there_is_a_need(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    assert spool.find(record()) is None
    await spool.close()
    assert files(tmp_path) == []
    assert spool.bytes == 0


async def test_a_restart_finds_what_was_stored(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1, 2)
    await spool.put(entry(3, kind=Kind.DEAD_LETTER), owner=object())
    assert spool.waiting == {Kind.RESULT: 2, Kind.DEAD_LETTER: 1}
    before = spool.bytes
    await spool.close()
    again = opened(tmp_path)
    assert again.waiting == {Kind.RESULT: 2, Kind.DEAD_LETTER: 1}
    assert again.bytes == before
    found = again.find(record(2))
    assert found is not None
    assert found.owner is None
    assert await again.read(found) == entry(2).message
    letter = again.find(record(3))
    assert letter is not None
    assert letter.kind is Kind.DEAD_LETTER
    assert again.find(record(4)) is None
    await again.close()


async def test_what_was_delivered_before_the_restart_is_known(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, second = await stored(spool, 1, 2)
    spool.settle(first, delivered=True)
    await spool.close()
    again = opened(tmp_path)
    delivered, waiting = again.find(record(1)), again.find(record(2))
    assert delivered is not None
    assert delivered.delivered
    assert waiting is not None
    assert not waiting.delivered
    assert again.waiting.total() == 1
    assert second.file == waiting.file
    await again.close()


async def test_what_was_given_up_is_gone(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, _ = await stored(spool, 1, 2)
    spool.settle(first, delivered=False)
    assert spool.find(record(1)) is None
    await spool.close()
    again = opened(tmp_path)
    assert again.find(record(1)) is None
    assert again.find(record(2)) is not None
    await again.close()


async def test_a_message_of_a_topic_made_anew_is_another(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1)
    await spool.close()
    again = opened(tmp_path)
    assert again.find(record(1, value=b"something else")) is None
    assert again.find(record(1)) is None, "dropped for good"
    await again.close()
    assert files(tmp_path) == []


async def test_what_the_group_has_committed_is_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1, 2, 3)
    await spool.close()
    again = opened(tmp_path)
    again.passed(Partition("in", 1), 9)
    again.passed(Partition("in", 0), 3)
    assert again.waiting.total() == 1
    assert again.find(record(2)) is None
    assert again.find(record(3)) is not None
    await again.close()


async def test_the_last_record_of_a_message_counts(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    [old] = await stored(spool, 1)
    old.owner = None
    await stored(spool, 1, value=b"newer")
    assert spool.waiting.total() == 1
    await spool.close()
    again = opened(tmp_path)
    found = again.find(record(1))
    assert found is not None
    message = await again.read(found)
    assert message is not None
    assert message.value == b"newer"
    await again.close()


async def test_the_limit_holds_on_disk(tmp_path: Path) -> None:
    limit = 64 * 1024
    spool = opened(tmp_path, limit)
    kept = 0
    while await spool.put(entry(kept, os.urandom(3000)), owner=object()) is not None:
        kept += 1
        used = sum(-(-p.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for p in files(tmp_path))
        assert used <= spool.bytes <= limit
    assert kept == 16
    assert await spool.put(entry(99, b"small"), owner=object()) is None
    await spool.close()


async def test_a_record_larger_than_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    spool = opened(tmp_path, 8192)
    await stored(spool, 1)
    assert await spool.put(entry(2, b"x" * 9000), owner=object()) is None
    assert spool.find(record(1)) is not None
    await spool.close()


async def test_what_nobody_waits_for_makes_room(tmp_path: Path) -> None:
    spool = opened(tmp_path, 8192)
    await stored(spool, 1)
    [second] = await stored(spool, 2)
    assert await spool.put(entry(3), owner=object()) is None
    second.owner = None
    assert await spool.put(entry(3), owner=object()) is not None
    assert spool.find(record(1)) is not None
    assert spool.find(record(2)) is None
    await spool.close()


async def test_space_comes_back_a_while_after_the_last_record_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "KEEP_SECONDS", 0.01)
    spool = opened(tmp_path)
    both = await stored(spool, 1, 2)
    assert len(files(tmp_path)) == 1, "stored together"
    spool.settle(both[0], delivered=True)
    spool.settle(both[1], delivered=True)
    async with asyncio.timeout(5):
        while spool.bytes:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.005)
    await spool.close()
    assert files(tmp_path) == []


async def test_files_are_deleted_in_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[threading.Thread] = []
    delete = SpoolFiles.delete

    def watched(self: SpoolFiles, file: int) -> None:
        deleted.append(threading.current_thread())
        delete(self, file)

    monkeypatch.setattr(SpoolFiles, "delete", watched)
    spool = opened(tmp_path, 4096)
    [one] = await stored(spool, 1)
    spool.settle(one, delivered=True)
    await stored(spool, 2)
    assert len(files(tmp_path)) == 1, "gone before what takes its place is written"
    await spool.close()
    assert len(deleted) == 1
    assert deleted[0] is not threading.current_thread()


async def test_one_directory_serves_one_process_and_one_group(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1)
    second = opened(tmp_path)
    assert not second.usable
    assert await second.put(entry(2), owner=object()) is None
    other = open_spool(tmp_path, "another group", MIB, Broken())
    assert other.usable
    assert other.find(record(1)) is None
    await asyncio.gather(spool.close(), second.close(), other.close())


async def test_without_a_directory_or_a_limit_nothing_is_stored(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for spool in (opened(blocked), opened(tmp_path / "d", limit=0)):
        assert not spool.usable
        assert await spool.put(entry(1), owner=object()) is None
        await spool.close()
    assert not (tmp_path / "d").exists()


CHILD = """
    import asyncio, os, sys
    from pathlib import Path
    from flowbinding_worker.ports import Partition, Record
    from flowbinding_worker.delivery.spool import open_spool
    from flowbinding_worker.delivery.spool_codec import Entry, Kind, Message, source_of

    async def main():
        spool = open_spool(Path(sys.argv[1]), "group", 1 << 28, lambda: None)
        offset = 0
        async def one(offset):
            record = Record(Partition("in", 0), offset, b"k", b"v", (), 1_000)
            value = bytes([offset % 256]) * (1 + offset * 37 % 5000)
            entry = Entry(Kind.RESULT, source_of(record), Message("out", b"k", value, []))
            stored = await spool.put(entry, object())
            os.write(1, b"%d\\n" % offset)
            if offset % 3 == 0:
                spool.settle(stored, delivered=True)
        while True:
            await asyncio.gather(*(one(offset + n) for n in range(10)))
            offset += 10

    asyncio.run(main())
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stores records for ever, and prints the offsets of those that are stored."""
    program = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("lines", [1, 15, 200])
async def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_stored(
    tmp_path: Path, child: subprocess.Popen[bytes], lines: int
) -> None:
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    child.wait()
    broken = Broken()
    spool = opened(tmp_path, 1 << 28, broken)
    assert broken.count <= 1, "at most a mark that was being written"
    for offset in said:
        found = spool.find(record(offset))
        assert found is not None, offset
        message = await spool.read(found)
        assert message is not None
        assert message.value == bytes([offset % 256]) * (1 + offset * 37 % 5000)
    await spool.close()


def test_a_directory_is_private(tmp_path: Path) -> None:
    SpoolFiles(tmp_path, "group").close()
    [directory] = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_group_may_have_any_name(tmp_path: Path) -> None:
    SpoolFiles(tmp_path, "../" + "ж" * 249).close()
    assert [p.parent for p in tmp_path.iterdir()] == [tmp_path]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    store = SpoolFiles(tmp_path, "group")
    first = store.write([encode(entry(1))])
    store.close()
    store = SpoolFiles(tmp_path, "group")
    assert store.write([encode(replace(entry(2), reason="x"))]) == first + 1
    store.close()
