"""The spool's file format: nothing broken is ever taken for a record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
from flowbinding_worker.ports import Partition, Record
from spool_bench import entry

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
