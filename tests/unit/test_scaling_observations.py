"""From what Kafka says to what the policy sees, and back to the Deployment and the status."""

from __future__ import annotations

from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_operator.autoscaler import sample_of
from flowbinding_operator.lag import Commit, FigureBook, Observation, Partition, Summary, done_of
from operator_harness import Operator

P0, P1, P2 = (Partition("t", number) for number in range(3))


def commit(offset: int, hi_done: int, *unfinished: int) -> Commit:
    text = encode(offset, Progress(hi_done, unfinished), Figures(1, 10))
    return Commit(offset, text)


def test_messages_done_beyond_the_commit_count() -> None:
    book = FigureBook()
    commits = {P0: commit(5, 20, 5, 9), P1: commit(7, 7), P2: Commit(8)}
    book.update(commits)
    # 5 and 9 are not done; 13 messages of 5 to 19 are.
    assert book.ahead == {P0: 13}
    starts = {P0: 0, P1: 0, P2: 10}
    assert done_of(starts, commits, book.ahead, [P0, P1, P2]) == (18, 7, 10)


def test_what_was_ahead_is_forgotten_with_the_next_commit() -> None:
    book = FigureBook()
    book.update({P0: commit(5, 20, 5)})
    book.update({P0: Commit(20)})
    assert book.ahead == {}


def test_a_partition_without_a_commit_is_done_up_to_its_start() -> None:
    assert done_of({P0: 4}, {}, {P0: 9}, [P0]) == (4,)


def test_a_sample_says_what_the_observation_says() -> None:
    seen = Observation(
        1.0,
        lag=3,
        end=10,
        partitions=2,
        summary=Summary(2, 16, 0.5, reason="FlowFailing"),
        unix=99.0,
        ends=(4, 6),
        done=(3, 4),
        ready=2,
    )
    sample = sample_of(seen)
    assert (sample.workers, sample.slots, sample.trouble) == (2, 8.0, "FlowFailing")
    assert (sample.unfinished, sample.unix) == (3, 99.0)
    assert sample_of(Observation(1.0)).slots is None


async def test_a_change_is_an_event_with_what_it_was_made_from() -> None:
    operator = Operator()
    operator.submit(scaling={"maxReplicas": 24})
    await operator.reconcile()
    operator.link.produce("orders", 4800)
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 24
    assert operator.status["recommendedReplicas"] == 24
    assert operator.status["demandRate"] == 166
    notes = [item["note"] for item in operator.kube.events if item["reason"] == "Scaled"]
    assert notes == [
        "from 0 to 24 replicas: Backlog (lag 4800, 0/s arrive, 166/s to be done, 10/s per worker)"
    ]


async def test_a_dry_run_touches_no_workers_and_recommends() -> None:
    operator = Operator()
    operator.submit(scaling={"maxReplicas": 24, "dryRun": True})
    await operator.reconcile()
    operator.link.produce("orders", 4800)
    await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 0
    assert operator.status["recommendedReplicas"] == 24
    assert operator.status["reason"] == "DryRun"


async def test_a_fallback_is_told() -> None:
    operator = Operator()
    operator.submit(scaling={"fallback": {"failureThreshold": 3, "replicas": 2}})
    await operator.reconcile()
    await operator.poll()
    operator.link.topics.clear()
    for _ in range(4):
        await operator.poll()
    assert operator.deployment["spec"]["replicas"] == 2
    assert operator.condition("ScalingActive") == ("False", "Fallback")


async def test_a_recommendation_outlives_the_operator() -> None:
    operator = Operator()
    operator.submit(scaling={"maxReplicas": 24, "dryRun": True})
    await operator.reconcile()
    operator.link.produce("orders", 4800)
    await operator.poll()
    operator.link.commit_all("shop.risk", "orders")
    operator.restart()
    await operator.reconcile()
    await operator.poll()
    # Nothing waits any more, but the window of scale-down is not over.
    assert operator.status["recommendedReplicas"] == 24
