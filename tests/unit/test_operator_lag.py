"""Lag arithmetic, seeding, and what workers' figures are trusted for."""

from __future__ import annotations

from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_api.spec import StartFrom
from flowbinding_operator.lag import Commit, FigureBook, Partition, Target, lag_of, seeds

P0, P1, P2 = (Partition("t", number) for number in range(3))
EARLY = Target("ns/b", "g", ("t",))
LATE = Target("ns/b", "g", ("t",), StartFrom.LATEST)


def test_lag_counts_from_the_commit() -> None:
    assert lag_of({P0: 10, P1: 5}, {P0: 0, P1: 0}, {P0: Commit(4), P1: Commit(5)}, [P0, P1]) == 6


def test_messages_that_retention_has_deleted_are_no_lag() -> None:
    assert lag_of({P0: 100}, {P0: 90}, {P0: Commit(10)}, [P0]) == 10


def test_a_commit_beyond_the_end_is_no_negative_lag() -> None:
    assert lag_of({P0: 3}, {P0: 0}, {P0: Commit(10)}, [P0]) == 0


def test_without_a_commit_everything_counts() -> None:
    assert lag_of({P0: 10}, {P0: 4}, {}, [P0]) == 6


def test_what_is_not_known_is_not_zero() -> None:
    assert lag_of({P0: 10}, {P0: 0}, {}, [P0, P1]) is None
    assert lag_of({P0: 10}, {}, {}, [P0]) is None


def test_a_new_group_starts_where_the_binding_says() -> None:
    ends, starts = {P0: 10, P1: 20}, {P0: 1, P1: 2}
    assert seeds(EARLY, [P0, P1], ends, starts, {}, {}) == {P0: Commit(1), P1: Commit(2)}
    assert seeds(LATE, [P0, P1], ends, starts, {}, {}) == {P0: Commit(10), P1: Commit(20)}


def test_a_partition_added_later_starts_at_its_beginning() -> None:
    made = seeds(LATE, [P0, P1], {P0: 10, P1: 20}, {P0: 0, P1: 0}, {P0: Commit(3)}, {})
    assert made == {P1: Commit(0)}


def test_commits_that_kafka_has_forgotten_are_made_again() -> None:
    ends, starts = {P0: 10, P1: 20}, {P0: 0, P1: 15}
    known = {P0: Commit(7, "figures"), P1: Commit(5)}
    made = seeds(LATE, [P0, P1], ends, starts, {}, known)
    assert made == {P0: Commit(7), P1: Commit(15)}


def test_a_partition_that_could_not_be_read_is_not_seeded() -> None:
    assert seeds(EARLY, [P0], {}, {P0: 0}, {}, {}) == {}


def say(offset: int, instance: int, **figures: object) -> Commit:
    spoken = Figures(instance=instance, slots=10, **figures)  # type: ignore[arg-type]
    return Commit(offset, encode(offset, Progress(offset), spoken))


def test_figures_of_several_workers_together() -> None:
    book = FigureBook()
    book.update(
        {
            P0: say(5, 1, seconds_per_message=1.0, oldest_timestamp_ms=500),
            P1: say(6, 2, seconds_per_message=3.0, oldest_timestamp_ms=300),
            P2: say(7, 2, seconds_per_message=3.0, oldest_timestamp_ms=300),
        }
    )
    summary = book.summary(workers=2)
    assert (summary.workers, summary.slots) == (2, 20)
    assert summary.seconds_per_message == 2.0
    assert summary.oldest_timestamp_ms == 300


def test_figures_mean_nothing_without_workers() -> None:
    book = FigureBook()
    book.update({P0: say(5, 1, reason="FlowUnauthorized", seconds_per_message=1.0)})
    assert book.summary(workers=1).reason == "FlowUnauthorized"
    assert book.summary(workers=0).reason == ""


def test_a_worker_that_recovered_is_believed_although_old_words_remain_elsewhere() -> None:
    book = FigureBook()
    bad = {P0: say(5, 1, reason="FlowUnreachable"), P1: say(6, 1, reason="FlowUnreachable")}
    book.update(bad)
    book.update({**bad, P0: say(9, 1)})
    assert book.summary(workers=1).reason == ""


def test_the_words_of_a_worker_that_is_gone_do_not_last() -> None:
    book = FigureBook()
    book.update({P0: say(5, 1, reason="FlowUnauthorized"), P1: say(6, 1)})
    book.update({P0: say(5, 1, reason="FlowUnauthorized"), P1: say(8, 2)})
    summary = book.summary(workers=1)
    assert (summary.workers, summary.reason) == (1, "")


def test_at_the_first_look_no_complaint_wins_over_a_complaint_of_the_same_worker() -> None:
    book = FigureBook()
    book.update({P0: say(5, 1, reason="FlowUnauthorized"), P1: say(6, 1)})
    assert book.summary(workers=1).reason == ""


def test_broken_and_foreign_metadata_is_counted_once_and_ignored() -> None:
    book = FigureBook()
    commits = {P0: Commit(5, "somebody else's"), P1: Commit(6, "FB1AAAA"), P2: say(7, 1)}
    assert book.update(commits) == 2
    assert book.update(commits) == 0
    assert book.summary(workers=3).workers == 1
