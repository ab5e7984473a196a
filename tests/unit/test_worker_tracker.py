"""The tracker's promise: the committed offset never passes a message that is not done."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.offsets import Progress, decode, encode
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import Tracker

PARTITION = Partition("in", 0)


def record(offset: int) -> Record:
    return Record(PARTITION, offset, None, b"", (), 1_000 + offset)


def fetch(tracker: Tracker, *offsets: int, position: int | None = None) -> list[int]:
    after = offsets[-1] + 1 if position is None else position
    return [r.offset for r in tracker.fetched([record(o) for o in offsets], after)]


def test_nothing_to_commit_before_a_position_is_known() -> None:
    assert Tracker().committable is None


def test_head_of_line_holds_the_commit_back() -> None:
    tracker = Tracker(10)
    fetch(tracker, 10, 11, 12)
    tracker.complete(11)
    tracker.complete(12)
    assert tracker.committable == 10
    assert tracker.progress() == Progress(13, (10,))
    assert tracker.oldest_timestamp_ms == 1_010
    tracker.complete(10)
    assert tracker.committable == 13
    assert tracker.oldest_timestamp_ms is None


def test_a_message_without_a_timestamp_has_no_age() -> None:
    tracker = Tracker(0)
    tracker.fetched([Record(PARTITION, 0, None, None, (), -1)], 1)
    assert tracker.oldest_timestamp_ms is None


def test_gaps_at_the_end_count_as_done() -> None:
    tracker = Tracker(0)
    fetch(tracker, 0, 5, position=9)
    tracker.complete(0)
    assert tracker.committable == 5
    tracker.complete(5)
    assert tracker.committable == 9


def test_done_before_is_not_run_again() -> None:
    tracker = Tracker(4, Progress(8, (4, 6)))
    assert fetch(tracker, 4, 5, 6, 7, 8) == [4, 6, 8]


def test_knowledge_of_before_survives_a_commit_in_between() -> None:
    tracker = Tracker(4, Progress(8, (4, 6)))
    fetch(tracker, 4)
    tracker.complete(4)
    assert tracker.committable == 5
    assert tracker.progress() == Progress(8, (6,))


def test_a_rewound_partition_contradicts() -> None:
    tracker = Tracker(10, Progress(12, (10,)))
    assert not tracker.contradicts(10, None)
    assert not tracker.contradicts(11, 12)
    assert tracker.contradicts(3, None), "the log begins anew"
    assert tracker.contradicts(10, 11), "more is done than there is"


def test_every_change_gets_a_version() -> None:
    tracker = Tracker(0)
    versions = [tracker.version]
    fetch(tracker, 0)
    versions.append(tracker.version)
    tracker.complete(0)
    versions.append(tracker.version)
    tracker.complete(0)
    assert versions == sorted(set(versions))
    assert tracker.version == versions[-1], "completing twice changes nothing"


log_offsets = st.sets(st.integers(0, 80), min_size=1, max_size=40).map(sorted)


@settings(max_examples=300)
@given(log=log_offsets, data=st.data())
def test_any_history_with_restarts_loses_nothing_and_repeats_only_what_was_unfinished(
    log: list[int], data: st.DataObject
) -> None:
    """Fetch, complete and restart in any order, on a log with gaps."""
    done: set[int] = set()
    stored: tuple[int, str] | None = None
    tracker, running, at = Tracker(0), list[int](), 0
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["fetch", "complete", "commit", "restart"]))
        if step == "fetch" and at < len(log):
            batch = log[at : at + data.draw(st.integers(1, 5))]
            at += len(batch)
            after = log[at] if at < len(log) and data.draw(st.booleans()) else batch[-1] + 1
            wanted = fetch(tracker, *batch, position=after)
            assert done >= set(batch) - set(wanted), "skipped, and never done"
            running += wanted
        elif step == "complete" and running:
            offset = running.pop(data.draw(st.integers(0, len(running) - 1)))
            before = tracker.committable or 0
            tracker.complete(offset)
            done.add(offset)
            assert (tracker.committable or 0) >= before
        elif step == "commit":
            offset = tracker.committable or 0
            stored = offset, encode(offset, tracker.progress())
            assert all(o in done for o in log if o < offset)
            progress = decode(*stored).progress
            assert all(o in done for o in log if progress.is_done(o) and o >= offset)
        elif step == "restart":
            offset, text = stored or (0, "")
            known = decode(offset, text).progress if text else None
            tracker = Tracker(offset, known)
            running, at = [], next((i for i, o in enumerate(log) if o >= offset), len(log))
            done_known = {o for o in log if o < offset or (known is not None and known.is_done(o))}
            assert done_known <= done
