"""What runs next: order within chains, slots, fairness, and that everything runs in the end."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_api.spec import Ordering
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.scheduler import Scheduler
from flowbinding_worker.tracker import MAX_UNFINISHED, Tracker

P0, P1 = Partition("in", 0), Partition("in", 1)
TRACKER = Tracker()
STEPS = ["add", "add", "take", "answer", "finish", "park", "wait"]


def job(partition: Partition, offset: int, key: bytes | None = None, size: int = 0) -> Job:
    return Job(Record(partition, offset, key, b"x" * size, (), 0), TRACKER)


def scheduler(ordering: Ordering, slots: int = 2, max_bytes: int = 1 << 20) -> Scheduler:
    made = Scheduler(ordering, slots, max_bytes)
    made.assign([P0, P1])
    return made


def offsets(jobs: list[Job]) -> list[int]:
    return [j.record.offset for j in jobs]


def take_all(made: Scheduler) -> list[Job]:
    taken = []
    while (got := made.take()) is not None:
        taken.append(got)
    return taken


def test_key_order() -> None:
    made = scheduler(Ordering.KEY, slots=10)
    for offset, key in enumerate([b"a", b"a", b"b", b"a"]):
        made.add(job(P0, offset, key))
    first = take_all(made)
    assert offsets(first) == [0, 2]
    made.finish(first[0])
    second = take_all(made)
    assert offsets(second) == [1]


def test_an_answered_message_frees_its_slot_and_its_key_waits() -> None:
    made = scheduler(Ordering.KEY, slots=1)
    for offset, key in enumerate([b"a", b"a", b"b"]):
        made.add(job(P0, offset, key))
    first = take_all(made)
    assert made.answered(first[0])
    second = take_all(made)
    assert offsets(second) == [2]
    # Results that are not taken must not pile up.
    assert not made.answered(second[0])
    made.finish(first[0])
    assert take_all(made) == []
    made.finish(second[0])
    assert offsets(take_all(made)) == [1]


def test_null_keys_have_no_order() -> None:
    made = scheduler(Ordering.KEY, slots=10)
    for offset in range(3):
        made.add(job(P0, offset))
    assert len(take_all(made)) == 3


def test_the_empty_key_is_a_key() -> None:
    made = scheduler(Ordering.KEY, slots=10)
    for offset in range(3):
        made.add(job(P0, offset, b""))
    assert len(take_all(made)) == 1


def test_partition_order_overlaps_partitions_only() -> None:
    made = scheduler(Ordering.PARTITION, slots=10)
    for partition in (P0, P1):
        for offset in range(3):
            made.add(job(partition, offset))
    assert [(j.partition, j.record.offset) for j in take_all(made)] == [(P0, 0), (P1, 0)]


def test_partitions_take_turns() -> None:
    made = scheduler(Ordering.NONE, slots=4)
    for offset in range(10):
        made.add(job(P0, offset))
    made.add(job(P1, 0))
    made.add(job(P1, 1))
    assert [j.partition for j in take_all(made)] == [P0, P1, P0, P1]


def test_a_parked_message_frees_its_slot_and_blocks_its_key_only() -> None:
    made = scheduler(Ordering.KEY, slots=1)
    for offset, key in enumerate([b"a", b"a", b"b"]):
        made.add(job(P0, offset, key))
    [first] = take_all(made)
    made.park(first, due=5.0)
    assert (made.running, made.parked, made.next_due()) == (0, 1, 5.0)
    [other] = take_all(made)
    assert other.record.key == b"b"
    made.finish(other)
    assert made.take() is None
    made.wake(4.9)
    assert made.take() is None
    made.wake(5.0)
    [again] = take_all(made)
    assert again is first
    assert made.next_due() is None


def test_revoked_messages_are_gone_and_running_ones_keep_their_slot() -> None:
    made = scheduler(Ordering.KEY, slots=2)
    for offset in range(4):
        made.add(job(P0, offset, b"k" if offset < 2 else None))
    running = take_all(made)
    parked = running.pop()
    made.park(parked, due=0.0)
    made.revoke([P0])
    made.wake(1.0)
    assert made.take() is None
    assert (made.running, made.buffered, made.parked) == (1, 0, 0)
    made.finish(running[0])
    assert (made.running, made.take()) == (0, None)
    assert P0 not in made.wanted()


def test_a_new_assignment_does_not_see_messages_of_the_old_one() -> None:
    made = scheduler(Ordering.KEY, slots=2)
    made.add(job(P0, 0, b"k"))
    made.add(job(P0, 1, b"k"))
    [old] = take_all(made)
    made.revoke([P0])
    made.assign([P0])
    made.add(job(P0, 0, b"k"))
    [new] = take_all(made)
    made.finish(old)
    assert made.take() is None
    made.finish(new)
    assert (made.running, made.buffered) == (0, 0)


def test_a_full_partition_leaves_room_for_the_others() -> None:
    made = scheduler(Ordering.KEY, slots=2)
    for offset in range(MAX_UNFINISHED):
        made.add(job(P0, offset, b"hot"))
    assert set(made.wanted()) == {P1}


def test_waiting_behind_a_key_does_not_stop_the_intake() -> None:
    made = scheduler(Ordering.KEY, slots=2)
    for offset in range(200):
        made.add(job(P0, offset, b"hot"))
    assert P0 in made.wanted(), "other keys may come"


def test_bytes_are_bounded_and_one_message_always_fits() -> None:
    made = scheduler(Ordering.NONE, slots=2, max_bytes=1000)
    assert set(made.wanted()) == {P0, P1}
    made.add(job(P0, 0, size=10_000))
    assert set(made.wanted()) == {P1}
    [running] = take_all(made)
    made.finish(running)
    assert set(made.wanted()) == {P0, P1}


@pytest.mark.parametrize("slots", [1, 10, 5_000])
def test_an_empty_scheduler_wants_everything(slots: int) -> None:
    wanted = scheduler(Ordering.NONE, slots).wanted()
    assert set(wanted) == {P0, P1}
    assert all(0 < room <= MAX_UNFINISHED for room in wanted.values())


@settings(max_examples=200, deadline=None)
@given(data=st.data(), ordering=st.sampled_from(list(Ordering)), slots=st.integers(1, 6))
def test_any_history_keeps_order_and_slots_and_runs_everything(
    data: st.DataObject, ordering: Ordering, slots: int
) -> None:
    made = scheduler(ordering, slots)
    keys = st.sampled_from([None, b"a", b"b", b"c"])
    counts: dict[Partition, int] = defaultdict(int)
    added: set[tuple[Partition, int]] = set()
    finished: list[Job] = []
    active: list[Job] = []
    answered: set[Job] = set()
    now = 0.0

    def add() -> None:
        partition = data.draw(st.sampled_from([P0, P1]))
        made.add(job(partition, counts[partition], data.draw(keys)))
        added.add((partition, counts[partition]))
        counts[partition] += 1

    def end(index: int, *, park: bool) -> None:
        nonlocal now
        chosen = active.pop(index)
        answered.discard(chosen)
        if park:
            made.park(chosen, now + data.draw(st.floats(0, 5)))
        else:
            made.finish(chosen)
            finished.append(chosen)

    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(STEPS))
        if step == "add":
            add()
        elif step == "take" and (got := made.take()) is not None:
            active.append(got)
        elif step in ("finish", "park") and active:
            end(data.draw(st.integers(0, len(active) - 1)), park=step == "park")
        elif step == "answer" and (waiting := [j for j in active if j not in answered]):
            free = made.answered(waiting[0])
            assert free == (len(answered) < slots)
            answered |= {waiting[0]} if free else set()
        elif step == "wait":
            now += 2.0
            made.wake(now)
        assert made.running == len(active) - len(answered) <= slots
        assert made.buffered + len(active) + len(finished) == len(added)
    while len(finished) < len(added):
        now += 10.0
        made.wake(now)
        while (got := made.take()) is not None:
            active.append(got)
        assert active, "something is left, and nothing can run"
        end(0, park=False)
    last: dict[object, int] = {}
    for done in finished:
        chain = {
            Ordering.KEY: (done.partition, done.record.key) if done.record.key else None,
            Ordering.PARTITION: done.partition,
            Ordering.NONE: None,
        }[ordering]
        if chain is not None:
            assert done.record.offset > last.get(chain, -1)
            last[chain] = done.record.offset
