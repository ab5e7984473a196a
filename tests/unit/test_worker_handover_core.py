"""Registers' contents, and what follows from them; without I/O and clocks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.offsets import MAX_METADATA, MetadataError, Progress
from flowbinding_worker.handover import FENCE_SECONDS, LANES, LEASE_SECONDS
from flowbinding_worker.handover.entry import Entry, Item, State, decode, encode, fingerprint
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import MAX_UNFINISHED, Tracker

P = Partition("in", 0)
BEFORE_CLOSING = "FBHAQRNBQIHA96tvu8BCQECAwS2u4m9"
MARKS = st.integers(0, 2**32 - 1)
ITEMS = st.dictionaries(
    st.integers(0, 2**62),
    st.one_of(
        st.builds(Item, MARKS, st.just(State.RUNNING), st.integers(0, 99)),
        st.builds(Item, MARKS, st.just(State.DONE)),
        st.builds(Item, MARKS, st.just(State.FREE), st.integers(0, 99), st.integers(0, 10**6)),
    ),
    max_size=50,
)


def record(offset: int, timestamp: int = 7, key: bytes | None = b"k") -> Record:
    return Record(P, offset, key, b"v", (), timestamp)


def mark(offset: int) -> int:
    return fingerprint(record(offset))


def entry(beat: int, instance: int = 1, *, closed: bool = False, **states: State) -> Entry:
    items = {int(name[1:]): Item(mark(int(name[1:])), state, 2) for name, state in states.items()}
    return Entry(instance, beat, items, closed=closed)


def heard(*said: tuple[int, Entry | None], at: float = 0.0) -> Incoming:
    incoming = Incoming()
    for lane in range(LANES):
        incoming.read(lane, dict(said).get(lane), at, at)
    return incoming


def expired(outgoing: Outgoing) -> bool:
    return outgoing.expired


def settled(outgoing: Outgoing) -> bool:
    return outgoing.settled


def closable(outgoing: Outgoing) -> bool:
    return outgoing.closable


def due(outgoing: Outgoing) -> bool:
    return outgoing.due


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(MARKS, st.integers(0, 2**40), ITEMS, st.booleans())
def test_entries_are_read_as_they_were_written(
    instance: int, beat: int, items: Mapping[int, Item], closed: bool
) -> None:
    text = encode(instance, beat, items, closed=closed)
    assert text is not None
    assert len(text) <= MAX_METADATA
    assert decode(text) == Entry(instance, beat, items, closed=closed)


def test_entries_of_workers_that_do_not_close_registers_are_read_and_not_closed() -> None:
    items = {7: Item(0xDEADBEEF, State.RUNNING, 1), 9: Item(0x01020304, State.DONE)}
    assert decode(BEFORE_CLOSING) == Entry(77, 5, items)
    assert encode(77, 5, items) == BEFORE_CLOSING


@given(
    st.one_of(st.text(), st.binary().map(lambda b: "FBH" + b.hex()), st.text().map("FBH".__add__))
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MetadataError):
        decode(text)


@given(ITEMS.filter(bool), st.data())
def test_a_damaged_entry_is_refused(items: Mapping[int, Item], data: st.DataObject) -> None:
    text = encode(1, 1, items) or ""
    at = data.draw(st.integers(3, len(text) - 2))
    other = "A" if text[at] != "A" else "B"
    with pytest.raises(MetadataError):
        decode(text[:at] + other + text[at + 1 :])


def test_as_many_messages_as_a_partition_may_have_fit_with_shorter_fingerprints() -> None:
    items = {10**9 + n: Item(0xFFFFFFFF - n, State.RUNNING) for n in range(MAX_UNFINISHED)}
    text = encode(2**32 - 1, 2**30, items)
    assert text is not None
    found = decode(text)
    assert found.width == 2
    assert found.items.keys() == items.keys()
    assert found.find(10**9, 0xFFFFFFFF) is not None
    assert found.find(10**9, 0xFFFF0000) is None


def test_what_does_not_fit_loses_attempts_first_and_is_given_up_then() -> None:
    running = {n * 10**6: Item(1, State.RUNNING) for n in range(500)}
    free = {n * 10**6 + 1: Item(1, State.FREE, 5, 10**9) for n in range(500)}
    text = encode(1, 1, running | free)
    assert text is not None
    assert decode(text).items.keys() == running.keys()
    assert encode(1, 1, {n * 10**6: Item(1, State.RUNNING) for n in range(3000)}) is None


@given(st.integers(-1, 2**50), st.none() | st.binary())
def test_fingerprints_tell_keys_and_times_apart(timestamp: int, key: bytes | None) -> None:
    print_ = fingerprint(record(0, timestamp, key))
    assert 0 <= print_ < 2**32
    assert print_ != fingerprint(record(0, timestamp + 1, key))
    assert fingerprint(record(0, timestamp, None)) != fingerprint(record(0, timestamp, b""))


def test_a_message_of_a_topic_made_anew_is_not_the_one_that_was_done() -> None:
    incoming = heard((0, entry(1, o5=State.DONE)))
    assert incoming.fate(5, mark(5)).turn is Turn.DONE
    assert incoming.fate(5, fingerprint(record(5, timestamp=8))).turn is Turn.READY


def test_done_counts_more_than_running_and_running_more_than_free() -> None:
    done, running = entry(1, 1, o5=State.DONE), entry(1, 2, o5=State.RUNNING)
    free = entry(1, 3, o5=State.FREE)
    assert heard((0, running), (1, free)).fate(5, mark(5)).turn is Turn.HELD
    assert heard((0, running), (1, done)).fate(5, mark(5)).turn is Turn.DONE
    fate = heard((2, free)).fate(5, mark(5))
    assert (fate.turn, fate.attempts) == (Turn.READY, 2)


def test_a_delay_counts_from_when_it_is_read() -> None:
    items = {5: Item(mark(5), State.FREE, 1, 1500)}
    incoming = heard((0, Entry(1, 1, items)), at=100.0)
    assert incoming.fate(5, mark(5)).due == 101.5


def test_a_writer_is_given_up_by_an_answer_to_a_late_question_only() -> None:
    tracker, said = Tracker(0), entry(1, o5=State.RUNNING)
    incoming = heard((0, said))
    # Asked early and answered late: it says nothing about now.
    incoming.read(0, said, 1.0, LEASE_SECONDS + 1)
    assert incoming.fate(5, mark(5)).turn is Turn.HELD
    assert incoming.awaited(tracker) == {0}
    incoming.read(0, said, LEASE_SECONDS, LEASE_SECONDS + 1)
    assert incoming.fate(5, mark(5)).turn is Turn.READY
    assert incoming.awaited(tracker) == set()


def test_a_beat_renews_the_lease_and_an_older_one_does_not() -> None:
    incoming = heard((0, entry(5, o5=State.RUNNING)))
    incoming.read(0, entry(4, o5=State.FREE), 14.0, 14.0)
    assert incoming.fate(5, mark(5)).turn is Turn.HELD
    incoming.read(0, entry(6, o5=State.RUNNING), 14.0, 14.0)
    incoming.read(0, entry(6, o5=State.RUNNING), 28.0, 28.0)
    assert incoming.fate(5, mark(5)).turn is Turn.HELD


@pytest.mark.parametrize("now", [None, entry(1, 2, o9=State.RUNNING)])
def test_an_entry_that_vanishes_holds_until_its_lease_is_over(now: Entry | None) -> None:
    incoming = heard((0, entry(1, 1, o5=State.RUNNING)))
    incoming.read(0, now, 1.0, 1.0)
    assert incoming.fate(5, mark(5)).turn is Turn.HELD
    incoming.read(0, now, LEASE_SECONDS, LEASE_SECONDS)
    assert incoming.fate(5, mark(5)).turn is Turn.READY


def test_the_lane_is_the_first_whose_messages_are_all_known_and_over() -> None:
    tracker = Tracker(0, Progress(9, (0, 1, 2)))
    tracker.fetched([record(0), record(1)], 2)
    assert heard().free_lane(tracker) == 0
    assert heard((0, entry(1, closed=True, o1=State.FREE))).free_lane(tracker) == 0
    assert heard((0, entry(1, closed=True, o1=State.DONE))).free_lane(tracker) == 0
    assert heard((0, entry(1, closed=True, o8=State.DONE))).free_lane(tracker) == 0, "committed"
    unknown = entry(1, closed=True, o12=State.DONE)
    assert heard((0, unknown)).free_lane(tracker) == 1, "nobody else could know it then"
    assert heard(*((lane, unknown) for lane in range(LANES))).free_lane(tracker) is None
    assert Incoming().free_lane(tracker) is None, "not read yet"


@pytest.mark.parametrize("state", list(State))
def test_a_lane_is_not_taken_from_a_writer_that_may_write_again(state: State) -> None:
    """It has closed the register, or has not been heard of for a lease."""
    tracker, said = Tracker(2), entry(1, o1=state)
    incoming = heard(*((lane, said) for lane in range(LANES)))
    assert incoming.free_lane(tracker) is None
    incoming.read(2, said, LEASE_SECONDS - 0.1, LEASE_SECONDS + 9)
    assert incoming.free_lane(tracker) is None
    incoming.read(2, said, LEASE_SECONDS, LEASE_SECONDS)
    assert incoming.free_lane(tracker) == 2
    incoming.read(1, entry(2, closed=True), 1.0, 1.0)
    assert incoming.free_lane(tracker) == 1


def test_a_lane_that_was_written_in_is_read_before_it_is_used_again() -> None:
    incoming = heard()
    incoming.opened(0)
    assert incoming.free_lane(Tracker(0)) == 1
    incoming.read(0, None, 1.0, 1.0)
    assert incoming.free_lane(Tracker(0)) == 0


def test_what_does_not_hold_any_more_keeps_its_register_while_its_writer_may_write() -> None:
    incoming = heard((0, entry(1, o5=State.RUNNING)))
    assert incoming.forget() == {0}
    assert incoming.silent
    assert incoming.fate(5, mark(5)).turn is Turn.READY
    assert incoming.free_lane(Tracker(9)) == 1


def test_the_right_to_write_ends_with_the_lease_and_nothing_revives_it() -> None:
    clock = Clock()
    clock.now = 100.0
    outgoing = Outgoing({1: Item(1, State.RUNNING)}, clock)
    assert not expired(outgoing), "nobody has been told"
    version, _ = outgoing.say()
    clock.now = 101.0
    outgoing.acknowledged(version, 100.0)
    assert outgoing.covered
    clock.now = 100.0 + FENCE_SECONDS - 0.1
    assert not expired(outgoing)
    version, _ = outgoing.say()
    clock.now = 100.0 + FENCE_SECONDS
    outgoing.acknowledged(version, clock.now - 0.1)
    assert expired(outgoing)
    assert not due(outgoing)
    assert FENCE_SECONDS < LEASE_SECONDS


def test_a_register_is_closed_unless_something_may_still_be_under_way() -> None:
    clock = Clock()
    outgoing = Outgoing({}, clock)
    assert not closable(outgoing)
    version, _ = outgoing.say()
    outgoing.acknowledged(version, 0.0)
    assert closable(outgoing)
    clock.now = FENCE_SECONDS
    assert not closable(outgoing), "others may have given us up"
    outgoing = Outgoing({}, clock)
    outgoing.say()
    version, _ = outgoing.say()
    outgoing.acknowledged(version, clock.now)
    assert settled(outgoing)
    assert not closable(outgoing)


def test_what_nobody_has_acknowledged_is_not_said_for_longer_than_a_lease_would_last() -> None:
    clock = Clock()
    outgoing = Outgoing({1: Item(1, State.RUNNING)}, clock)
    outgoing.say()
    assert due(outgoing)
    clock.now = FENCE_SECONDS
    assert outgoing.over
    assert not due(outgoing)
    assert not expired(outgoing), "but its messages are ours: nobody was told of them"


def test_an_answer_after_that_does_not_bring_it_back() -> None:
    """It is said in another register by then; here its runs would never end."""
    clock = Clock()
    outgoing = Outgoing({1: Item(mark(1), State.RUNNING)}, clock)
    clock.now = FENCE_SECONDS - 0.1
    version, _ = outgoing.say()
    clock.now = FENCE_SECONDS
    assert outgoing.vain
    outgoing.acknowledged(version, FENCE_SECONDS - 0.1)
    assert outgoing.over
    assert not outgoing.covered
    assert not due(outgoing)


def test_what_is_said_changes_and_comes_to_an_end() -> None:
    clock = Clock()
    outgoing = Outgoing({n: Item(n, State.RUNNING) for n in range(3)}, clock)
    outgoing.done(0)
    outgoing.free(1, 4, due=2.5)
    outgoing.done(99)
    clock.now = 1.0
    version, said = outgoing.say()
    assert said[0].state is State.DONE
    assert said[1] == Item(1, State.FREE, 4, 1500)
    outgoing.acknowledged(version, 1.0)
    assert [outgoing.due] == [False]
    assert not settled(outgoing)
    clock.now = 3.0
    assert outgoing.due, "a beat"
    outgoing.free_running()
    assert not settled(outgoing), "nobody knows yet"
    version, said = outgoing.say()
    outgoing.acknowledged(version, 3.0)
    assert said[2].state is State.FREE
    assert settled(outgoing)
