"""Records on disk: what is stored is there after a crash, and nothing broken is ever believed."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_worker.delivery import spool as spooling
from flowbinding_worker.delivery.spool import Spool, Stored, open_spool
from flowbinding_worker.delivery.spool_codec import (
    Entry,
    Found,
    Kind,
    Message,
    encode,
    mark,
    scan,
    source_of,
)
from flowbinding_worker.delivery.spool_files import BLOCK_BYTES, SpoolFiles
from flowbinding_worker.ports import Partition, Record

MIB = 1 << 20

parts = st.none() | st.binary(max_size=20)
messages = st.builds(
    Message,
    st.text(min_size=1, max_size=10),
    parts,
    parts,
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), parts)),
    st.none() | st.integers(0, 100),
)
records = st.builds(
    Record,
    st.builds(Partition, st.sampled_from(["in", "other"]), st.integers(0, 3)),
    st.integers(0, 1 << 62),
    parts,
    parts,
    st.just(()),
    st.integers(-1, 1 << 45),
)
entries = st.builds(
    Entry, st.sampled_from(Kind), st.builds(source_of, records), messages, st.text(max_size=5)
)


def record(offset: int = 0, value: bytes = b"v", partition: int = 0) -> Record:
    return Record(Partition("in", partition), offset, b"k", value, (), 1_000)


def entry(offset: int = 0, value: bytes = b"result", kind: Kind = Kind.RESULT) -> Entry:
    return Entry(kind, source_of(record(offset)), Message("out", b"k", value, [("h", None)]))


class Broken:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def opened(folder: Path, limit: int = MIB, broken: Broken | None = None) -> Spool:
    return open_spool(folder, "group", limit, broken or Broken())


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.spool"))


async def stored(spool: Spool, *offsets: int, value: bytes = b"result") -> list[Stored]:
    found = await asyncio.gather(*(spool.put(entry(o, value), owner=object()) for o in offsets))
    assert None not in found
    return [one for one in found if one is not None]


@given(st.lists(entries, max_size=5))
def test_what_is_written_is_read(written: list[Entry]) -> None:
    found = list(scan(b"".join(encode(e) for e in written)))
    assert [f.entry for f in found if f is not None] == written
    assert None not in found


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_a_flipped_bit_changes_no_record(written: list[Entry], data: st.DataObject) -> None:
    whole = bytearray(b"".join(encode(e) for e in written) + mark(0, delivered=True))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found = list(scan(bytes(whole)))
    assert None in found
    good = [f for f in found if f is not None]
    starts = {encode_start(written, i): e for i, e in enumerate(written)}
    for one in good:
        assert one.entry is None or starts[one.start] == one.entry


def encode_start(written: list[Entry], index: int) -> int:
    return sum(len(encode(e)) for e in written[:index])


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_a_truncated_file_keeps_what_is_whole(written: list[Entry], data: st.DataObject) -> None:
    whole = b"".join(encode(e) for e in written)
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = [f for f in scan(whole[:cut]) if f is not None]
    expected = [e for i, e in enumerate(written) if encode_start(written, i + 1) <= cut]
    assert [f.entry for f in found] == expected


@given(st.binary(max_size=200))
def test_garbage_is_nothing(data: bytes) -> None:
    assert [f for f in scan(data) if f is not None] == []


def test_a_frame_of_another_version_is_skipped_alone() -> None:
    from flowbinding_worker.delivery.spool_codec import _frame

    data = _frame(b"Zwhat") + _frame(b"E\0\0\0\x02{}") + encode(entry())
    assert [f.entry if f else None for f in scan(data)] == [None, None, entry()]


def test_marks_name_the_place_of_their_entry() -> None:
    first, second = encode(entry(1)), encode(entry(2))
    data = first + second + mark(len(first), delivered=True) + mark(0, delivered=False)
    assert list(scan(data))[2:] == [Found(len(first), delivered=True), Found(0, delivered=False)]


@given(records, records)
def test_fingerprints_tell_messages_apart(one: Record, other: Record) -> None:
    same = (one.key, one.value, one.timestamp_ms) == (other.key, other.value, other.timestamp_ms)
    assert (source_of(one).fingerprint == source_of(other).fingerprint) is same


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


async def test_a_full_disk_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert await spool.put(entry(1), owner=object()) is None
    assert list(tmp_path.rglob("*.tmp")) == files(tmp_path) == []
    assert spool.bytes == 0
    await stored(spool, 1)
    await spool.close()


def test_a_mark_that_fits_the_disk_in_part_leaves_nothing_behind(tmp_path: Path) -> None:
    store = SpoolFiles(tmp_path, "group")
    first, second = encode(entry(1)), encode(entry(2))
    number = store.write([first, second])
    [path] = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError, match="in part"):
            store.mark(number, [(0, True)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.mark(number, [(len(first), True)])
    [(_, _, found)] = store.scan()
    assert found[2:] == [Found(len(first), delivered=True)]
    store.close()


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


async def test_bytes_that_rot_are_found_out_when_read(tmp_path: Path) -> None:
    broken = Broken()
    spool = opened(tmp_path, broken=broken)
    [one] = await stored(spool, 1)
    [path] = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert await spool.read(one) is None
    assert broken.count == 1
    path.unlink()
    assert await spool.read(one) is None
    await spool.close()


async def test_broken_files_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for offset in (1, 2, 3):
        await stored(spool, offset)
    await spool.close()
    first, second, _ = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(b"\0" * 20)
    (first.parent / "0000000000000009.tmp").write_bytes(b"half")
    broken = Broken()
    again = opened(tmp_path, broken=broken)
    assert broken.count >= 2
    assert [again.find(record(o)) is not None for o in (1, 2, 3)] == [False, False, True]
    assert len(files(tmp_path)) == 1, "nothing of use is left of the others"
    assert list(tmp_path.rglob("*.tmp")) == []
    await again.close()


async def test_a_file_that_the_disk_does_not_give_back_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1)
    await spool.close()
    broken = Broken()

    def rotten(_: Path, **__: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", rotten)
        patch.setattr(Path, "unlink", rotten)
        spool = opened(tmp_path, broken=broken)
    assert broken.count == 1
    assert spool.find(record(1)) is None
    await stored(spool, 2)
    await spool.close()


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
