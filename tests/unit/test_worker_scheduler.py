"""What runs next: order within chains, slots, fairness, and that everything runs in the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial

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


def job(
    partition: Partition, offset: int, key: bytes | None = None, size: int = 0, at: int = 0
) -> Job:
    return Job(Record(partition, offset, key, b"x" * size, (), at), TRACKER)


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


def lanes_of(*timestamps: Iterable[int]) -> tuple[Scheduler, list[Partition]]:
    """A scheduler with unlimited slots, and partitions with messages of these timestamps."""
    partitions = [Partition("in", number) for number in range(len(timestamps))]
    made = Scheduler(Ordering.NONE, slots=1_000_000)
    made.assign(partitions)
    for partition, times in zip(partitions, timestamps, strict=True):
        for offset, at in enumerate(times):
            made.add(job(partition, offset, at=at))
    return made, partitions


def taken(made: Scheduler, number: int) -> list[Job]:
    got = [made.take() for _ in range(number)]
    return [j for j in got if j is not None]


def test_every_other_message_is_the_oldest() -> None:
    made, (p0, p1, p2) = lanes_of([50, 51, 52], [10, 11, 12, 60], [30, 31])
    order = [(j.partition, j.record.timestamp_ms) for j in take_all(made)]
    assert order[0::2] == [(p0, 50), (p1, 11), (p2, 30), (p0, 51), (p1, 60)]
    assert order[1::2] == [(p1, 10), (p1, 12), (p2, 31), (p0, 52)]


def test_a_partition_that_fell_behind_gets_half_of_the_slots_besides_its_turns() -> None:
    fresh = range(1_000, 1_100)
    made, (behind, *others) = lanes_of(range(100), fresh, fresh, fresh, fresh)
    given = Counter(j.partition for j in taken(made, 60))
    assert given == {behind: 30 + 6, **dict.fromkeys(others, 6)}


def test_a_partition_that_fell_behind_catches_up_and_then_is_one_of_all() -> None:
    # A message each second in each; the last is 60 seconds behind the others.
    made, partitions = lanes_of(*(range(60, 300) for _ in range(3)), range(300))
    reached = dict.fromkeys(partitions, 0)
    for one in taken(made, 240):
        reached[one.partition] = one.record.timestamp_ms
    assert max(reached.values()) - min(reached.values()) <= 2
    given = Counter(j.partition for j in taken(made, 400))
    assert all(given[p] == pytest.approx(100, abs=2) for p in partitions)


def deliver(made: Scheduler, one: Job) -> None:
    assert made.answered(one)
    made.finish(one)


ENDS = {"done": Scheduler.finish, "parked": partial(Scheduler.park, due=1e9), "delivered": deliver}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_partition_that_is_behind_because_its_runs_are_long_gets_no_more_than_its_turns(
    end: Callable[[Scheduler, Job], None],
) -> None:
    fresh = range(1_000, 1_100)
    made, (behind, *_) = lanes_of(range(100), fresh, fresh, fresh)
    made.slots = 20
    held = 0
    for _ in range(40):
        (one,) = taken(made, 1)
        held += one.partition == behind
        end(made, one)
    assert held == 20 + 5
    held = 0
    for _ in range(40):
        (one,) = taken(made, 1)
        if one.partition == behind:
            held += 1
        else:
            end(made, one)
    # 16 messages until it holds half of the slots; of the others each fourth is its turn.
    assert 10 <= held <= 10 + 24 / 4


@pytest.mark.parametrize("at", [-1, 0, 4_102_444_800_000, 2**62])
def test_a_timestamp_that_is_no_time_takes_no_more_than_every_other_slot(at: int) -> None:
    now = range(1_795_257_558_250, 1_795_257_558_450)
    made, partitions = lanes_of([at] * 200, now, now, now)
    given = Counter(j.partition for j in taken(made, 160))
    assert all(given[p] >= 160 / 4 / 2 for p in partitions)


TIMES = st.sampled_from([-1, 0, 1, 2, 3, 2**62])
MOVES = st.sampled_from(["add", "take", "take", "take", "take", "stop", "go on"])


@settings(max_examples=200)
@given(data=st.data(), times=st.lists(st.lists(TIMES, max_size=12), min_size=1, max_size=5))
def test_whatever_timestamps_say_a_message_is_passed_over_less_than_twice_per_partition(
    data: st.DataObject, times: list[list[int]]
) -> None:
    made, partitions = lanes_of(*times)
    ready = {p: len(found) for p, found in zip(partitions, times, strict=True)}
    passed = Counter[Partition]()
    stopped: set[Partition] = set()
    for move in data.draw(st.lists(MOVES, max_size=60)):
        able = {p for p in partitions if ready[p] and p not in stopped}
        if move == "take":
            one = made.take()
            assert (one is not None) == bool(able)
            if one is not None:
                assert one.partition in able
                ready[one.partition] -= 1
                passed.update(able)
                del passed[one.partition]
                assert all(passed[p] < 2 * len(times) for p in able)
            continue
        chosen = data.draw(st.sampled_from(partitions))
        if move == "add":
            made.add(job(chosen, 0, at=data.draw(TIMES)))
            ready[chosen] += 1
        elif move == "stop":
            made.stop(chosen)
            stopped.add(chosen)
            del passed[chosen]
        else:
            made.go_on(chosen)
            stopped.discard(chosen)


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


def assert_in_order(finished: list[Job], ordering: Ordering) -> None:
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


@settings(max_examples=200)
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
    assert_in_order(finished, ordering)
