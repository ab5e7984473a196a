"""The engine on an in-memory Kafka and flow: nothing lost, nothing repeated without need."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from flowbinding_api.offsets import Figures, decode
from flowbinding_worker import circuit as circuit_module
from flowbinding_worker import committer as committer_module
from flowbinding_worker import engine as engine_module
from flowbinding_worker.kafka_port import (
    ConsumerBrokenError,
    KafkaUnavailableError,
    MembershipLostError,
    Position,
)
from flowbinding_worker.ports import Failure, FlowRequest, Partition, ProcessingError, Record, Stage
from flowbinding_worker.retry import Backoff
from worker_fakes import FakeBroker, FakeFlow, Worker, until

P0, P1 = Partition("in", 0), Partition("in", 1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(committer_module, "FIGURES_SECONDS", 0.05)
    monkeypatch.setattr(committer_module, "COMMIT_SECONDS", 0.2)
    monkeypatch.setattr(engine_module, "_BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(engine_module, "HEAL_SECONDS", 0.02)
    monkeypatch.setattr("flowbinding_worker.sinks._BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(circuit_module, "FIRST_PROBE_SECONDS", 0.02)
    monkeypatch.setattr(circuit_module, "MAX_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(circuit_module, "MAX_PROBE_SECONDS_TRANSIENT", 0.05)


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def texts(*numbers: int, key: bytes | None = None) -> list[tuple[bytes | None, bytes | None]]:
    return [(key, f"m{n}".encode()) for n in numbers]


def refuse(failure: Failure, status: int | None = None) -> ProcessingError:
    return ProcessingError(
        "the flow says no",
        failure=failure,
        stage=Stage.CALL,
        reason="FlowUnauthorized" if failure is Failure.CONFIGURATION else "FlowFailing",
        status=status,
        response="because",
    )


class Gate:
    """Lets chosen inputs wait until they are released."""

    def __init__(self, *waiting: str) -> None:
        self.events = {text: asyncio.Event() for text in waiting}

    async def __call__(self, request: FlowRequest) -> str:
        if request.input in self.events:
            await self.events[request.input].wait()
        return request.input


def figures(broker: FakeBroker, partition: Partition = P0) -> Figures:
    position = broker.commits[partition]
    found = decode(position.offset, position.metadata).figures
    assert found is not None
    return found


async def test_messages_become_results_and_are_committed(broker: FakeBroker) -> None:
    broker.produce([(b"k", b"m0"), (None, b"m1")])
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.engine.ready
        await worker.end()
    assert sorted(broker.sent_to("out"), key=str) == [b"m0", b"m1"]
    keys = {value: (key, headers) for _, key, value, headers in broker.produced}
    key, headers = keys[b"m0"]
    assert key == b"k"
    assert headers == {"flowbinding-binding": b"default/example", "flowbinding-source": b"in-0-0"}
    assert keys[b"m1"][0] is None
    assert worker.consumer.stopped
    assert worker.producer.stopped
    assert worker.flow.closed
    assert not worker.engine.ready


async def test_no_output_topic(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow(), {"output": None}) as worker:
        await until(lambda: worker.committed == 1)
    assert broker.produced == []


async def test_filtered_messages_are_done_without_a_run(broker: FakeBroker) -> None:
    broker.produce([(None, b'{"n": 1}'), (None, b'{"n": 2}')])
    spec = {"source": {"filter": "value.n > 1"}, "flow": {"input": "{{ value.n }}"}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.count('messages_total{outcome="filtered"}') == 1
    assert worker.flow.inputs == ["2"]


async def test_the_commit_waits_for_the_slow_head_and_says_what_is_done_beyond(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1, 2))
    async with Worker(broker, FakeFlow(gate)) as worker:
        await until(lambda: len(broker.produced) == 2)
        await until(
            lambda: (
                worker.committed == 0
                and decode(0, broker.commits[P0].metadata).progress.hi_done == 3
            )
        )
        gate.events["m0"].set()
        await until(lambda: worker.committed == 3)


async def test_a_killed_worker_repeats_only_what_was_unfinished(broker: FakeBroker) -> None:
    broker.produce(texts(*range(6)))
    async with Worker(broker, FakeFlow(Gate("m1", "m4"))) as worker:
        await until(
            lambda: (
                worker.committed == 1
                and decode(1, broker.commits[P0].metadata).progress.hi_done == 6
            )
        )
        await worker.die()
    async with Worker(broker, FakeFlow()) as second:
        await until(lambda: second.committed == 6)
        assert sorted(second.flow.inputs) == ["m1", "m4"]
    assert sorted(map(str, broker.sent_to("out"))) == [f"b'm{n}'" for n in range(6)]


async def test_stop_lets_running_messages_end_and_repeats_nothing(broker: FakeBroker) -> None:
    gate = Gate("m0", "m1")
    broker.produce(texts(*range(30)))
    async with Worker(broker, FakeFlow(gate), {"concurrency": {"perReplica": 2}}) as worker:
        await until(lambda: worker.flow.running == 2)
        worker.stop.ask()
        await until(lambda: worker.count("buffered") == 0)
        for event in gate.events.values():
            event.set()
        await worker.end()
    assert worker.flow.inputs == ["m0", "m1"]
    assert worker.committed == 2


async def test_a_second_signal_cuts_the_drain_short(broker: FakeBroker) -> None:
    broker.produce(texts(0, 1))
    async with Worker(broker, FakeFlow(Gate("m0"))) as worker:
        await until(lambda: broker.sent_to("out") == [b"m1"])
        worker.stop.ask()
        await worker.end()
    assert worker.committed == 0
    assert decode(0, broker.commits[P0].metadata).progress.hi_done == 2


@pytest.mark.parametrize("ordering", ["Key", "None"])
async def test_as_many_run_as_there_are_slots(broker: FakeBroker, ordering: str) -> None:
    inputs = [f"m{n}" for n in range(40)]
    gate = Gate(*inputs)
    broker.produce([(text.encode(), text.encode()) for text in inputs])
    spec = {"concurrency": {"perReplica": 7, "ordering": ordering}}
    async with Worker(broker, FakeFlow(gate), spec) as worker:
        await until(lambda: worker.flow.running == 7)
        for event in gate.events.values():
            event.set()
        await until(lambda: worker.committed == 40)
        assert worker.flow.most == 7


async def test_a_retry_blocks_its_key_only(broker: FakeBroker) -> None:
    failures = iter([refuse(Failure.TRANSIENT, 503), refuse(Failure.TRANSIENT, 503)])

    async def answer(request: FlowRequest) -> str:
        if request.input == "m0" and (error := next(failures, None)):
            raise error
        return request.input

    broker.produce([*texts(0, 1, key=b"a"), *texts(2, key=b"b")])
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.committed == 3)
    order = [text for text in worker.flow.inputs if text != "m2"]
    assert order == ["m0", "m0", "m0", "m1"]


async def test_after_its_attempts_a_message_is_a_dead_letter(broker: FakeBroker) -> None:
    async def answer(request: FlowRequest) -> str:
        raise refuse(Failure.TRANSIENT, 500)

    broker.produce([(b"k", b"m0")])
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.committed == 1)
    assert len(worker.flow.calls) == 3
    [(topic, key, value, headers)] = broker.produced
    assert (topic, key, value) == ("in.example.dlq", b"k", b"m0")
    assert headers["flowbinding-attempts"] == b"3"
    assert headers["flowbinding-http-status"] == b"500"
    assert headers["flowbinding-response"] == b"because"
    assert headers["__connect.errors.stage"] == b"CALL"
    assert headers["__connect.errors.connector.name"] == b"default/example"


async def test_poison_is_a_dead_letter_at_once_and_the_rest_goes_on(broker: FakeBroker) -> None:
    broker.produce([(b"k", b"not json"), (b"k", b'{"message": "m1"}')])
    spec = {"source": {"format": "JSON"}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.count('dead_letters_total{reason="DecodeFailed"}') == 1
    assert worker.flow.inputs == ["m1"]
    [headers] = [h for topic, _, _, h in broker.produced if topic.endswith(".dlq")]
    assert headers["__connect.errors.stage"] == b"DECODE"
    assert headers["flowbinding-attempts"] == b"1"


async def test_dead_letters_off(broker: FakeBroker) -> None:
    broker.produce([(b"k", b"not json")])
    spec = {"source": {"format": "JSON"}, "deadLetter": {"enabled": False}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: worker.committed == 1)
        assert worker.count('messages_total{outcome="discarded"}') == 1
    assert broker.produced == []


@pytest.mark.parametrize(
    ("topic", "reason"),
    [("out", "OutputUnavailable"), ("in.example.dlq", "DeadLetterUnavailable")],
)
async def test_what_cannot_be_written_is_not_committed_and_heals(
    broker: FakeBroker, topic: str, reason: str
) -> None:
    broker.produce([(None, b'{"message": "m0"}'), (None, b"not json")])
    spec = {"source": {"format": "JSON"}}
    worker = Worker(broker, FakeFlow(), spec)
    worker.producer.failing[topic] = KafkaUnavailableError("not there")
    async with worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == reason)
        assert figures(broker).message == "not there"
        assert worker.committed < 2
        worker.producer.failing.clear()
        await until(lambda: worker.committed == 2)
        await until(lambda: figures(broker).reason == "")
    assert len(broker.produced) == 2
    assert len(worker.flow.calls) == 1, "a result that waits is not run again"


async def test_a_result_that_is_too_large_is_a_dead_letter_and_that_shrinks(
    broker: FakeBroker,
) -> None:
    broker.produce([(b"k", b"x" * 5000)])
    worker = Worker(broker, FakeFlow())
    worker.producer.limit = 4000
    async with worker:
        await until(lambda: worker.committed == 1)
    [(topic, key, value, headers)] = broker.produced
    assert (topic, key, value) == ("in.example.dlq", b"k", None)
    assert headers["flowbinding-truncated"] == b"value"
    assert headers["flowbinding-reason"] == b"ResultTooLarge"
    assert headers["__connect.errors.stage"] == b"OUTPUT"
    assert "__connect.errors.exception.stacktrace" not in headers


async def test_a_configuration_failure_loses_nothing_shows_and_heals(broker: FakeBroker) -> None:
    broken = True

    async def answer(request: FlowRequest) -> str:
        if broken:
            raise refuse(Failure.CONFIGURATION, 403)
        return request.input

    broker.produce(texts(*range(50)))
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == "FlowUnauthorized")
        assert figures(broker).message == "the flow says no"
        assert worker.count("circuit_state") in (1, 2)
        assert worker.engine.ready
        broken = False
        await until(lambda: worker.committed == 50)
        await until(lambda: figures(broker).reason == "")
    assert len(broker.sent_to("out")) == 50
    assert broker.sent_to("in.example.dlq") == []


async def test_a_flow_that_cannot_start_shows_why(broker: FakeBroker) -> None:
    flow = FakeFlow()
    flow.start_error = refuse(Failure.CONFIGURATION)
    async with Worker(broker, flow) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == "FlowUnauthorized")
        broker.produce(texts(0))
        await until(lambda: worker.committed == 1)


async def test_a_repaired_flow_is_noticed_without_a_message(broker: FakeBroker) -> None:
    flow = FakeFlow()
    flow.start_error = refuse(Failure.CONFIGURATION)
    async with Worker(broker, flow):
        await until(lambda: P0 in broker.commits and figures(broker).reason == "FlowUnauthorized")
        flow.start_error = None
        await until(lambda: figures(broker).reason == "")
    assert flow.calls == []


async def test_an_outage_sends_nothing_to_the_dead_letters(broker: FakeBroker) -> None:
    down = True

    async def answer(request: FlowRequest) -> str:
        if down:
            raise refuse(Failure.TRANSIENT)
        return request.input

    broker.produce(texts(*range(100)))
    spec = {"retry": {"maxAttempts": 5}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.count("circuit_state") == 1)
        calls = len(worker.flow.calls)
        await until(lambda: len(worker.flow.calls) > calls + 12)
        down = False
        await until(lambda: worker.committed == 100)
    assert broker.sent_to("in.example.dlq") == []


async def test_messages_that_always_fail_leave_one_by_one(broker: FakeBroker) -> None:
    """The circuit must not keep a topic of bad messages for ever."""

    async def answer(request: FlowRequest) -> str:
        raise refuse(Failure.TRANSIENT, 500)

    broker.produce(texts(*range(12)))
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.committed == 12)
    assert len(broker.sent_to("in.example.dlq")) == 12


async def test_a_fault_in_a_flow_is_that_messages_problem(broker: FakeBroker) -> None:
    async def answer(request: FlowRequest) -> str:
        if request.input == "m0":
            raise RuntimeError("bug")
        return request.input

    broker.produce(texts(0, 1))
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.committed == 2)
    assert broker.sent_to("in.example.dlq") == [b"m0"]


async def test_a_fault_in_the_engine_ends_the_worker(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("flowbinding_worker.tracker.Tracker.complete", broken)
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow()) as worker:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(worker.task), 5)
        assert worker.consumer.stopped, "the group need not wait for the session timeout"


async def test_a_rebalance_waits_for_running_messages(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1))
    async with Worker(broker, FakeFlow(gate), {"concurrency": {"perReplica": 1}}) as worker:
        await until(lambda: worker.flow.running == 1)
        revoking = asyncio.create_task(worker.consumer.revoke())
        gate.events["m0"].set()
        await revoking
        assert worker.committed == 1
        assert worker.flow.inputs == ["m0"], "nothing new is started"
        await worker.consumer.assign([P0])
        await until(lambda: worker.committed == 2)
    assert worker.flow.inputs == ["m0", "m1"]


async def test_a_call_longer_than_the_drain_is_cancelled_and_has_no_effect(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbinding_worker.assembly.drain_seconds", lambda _: 0.05)
    released = asyncio.Event()

    async def answer(request: FlowRequest) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As bad as a flow can be: it does not let itself be cancelled.
            await released.wait()
        return "late"

    monkeypatch.setattr("flowbinding_worker.work.CANCEL_SECONDS", 0.05)
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.flow.running == 1)
        await worker.consumer.revoke()
        released.set()
        await until(lambda: worker.flow.running == 0)
        await until(lambda: worker.count("in_flight") == 0)
        assert broker.produced == []
        assert worker.committed <= 0


async def test_lost_membership_drops_everything(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow(gate)) as worker:
        await until(lambda: worker.flow.running == 1)
        before = list(broker.history)
        await worker.consumer.revoke(lost=True)
        await until(lambda: worker.flow.running == 0)
        assert broker.history == before
        assert broker.produced == []


async def test_a_refused_commit_ends_the_epoch(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1))
    worker = Worker(broker, FakeFlow(gate))
    worker.consumer.refusal = MembershipLostError("somebody else")
    async with worker:
        await until(lambda: len(worker.flow.calls) == 2)
        await until(lambda: worker.flow.running == 0)
        worker.consumer.refusal = None
        gate.events["m0"].set()
        await worker.consumer.revoke(lost=True)
        await worker.consumer.assign([P0])
        await until(lambda: worker.committed == 2)


async def test_a_commit_that_hangs_is_given_up_and_tried_again(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    worker.consumer.hang = True
    async with worker:
        await until(lambda: len(broker.produced) == 1)
        await until(lambda: worker.engine._parts.trouble.reason == "KafkaUnreachable")
        worker.consumer.hang = False
        await until(lambda: worker.committed == 1)
        await until(lambda: worker.engine._parts.trouble.reason == "")


async def test_commits_never_go_back_and_never_pass_what_is_unfinished(broker: FakeBroker) -> None:
    pending: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(request: FlowRequest) -> str:
        await pending[request.input].wait()
        return request.input

    broker.produce(texts(*range(200)))
    async with Worker(broker, FakeFlow(answer), {"concurrency": {"perReplica": 50}}) as worker:
        for number in (*range(1, 50, 2), *range(0, 50, 2), *range(199, 49, -1)):
            pending[f"m{number}"].set()
            await asyncio.sleep(0.001)
        await until(lambda: worker.committed == 200)
    offsets = [position[P0].offset for position in broker.history]
    assert offsets == sorted(offsets)


async def test_an_idle_worker_does_not_commit(broker: FakeBroker) -> None:
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 0)
        broker.produce(texts(0))
        await until(lambda: worker.committed == 1)
        await until(lambda: figures(broker).busy == 0)
        commits = len(broker.history)
        polls = worker.engine._parts.work.scheduler.wanted
        del polls
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert len(broker.history) <= commits + 1


async def test_compacted_logs_are_committed_to_their_end(broker: FakeBroker) -> None:
    broker.logs[P0] = [Record(P0, o, None, b"m", (), 0) for o in (3, 7, 20)]
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 21)


@pytest.mark.parametrize("metadata", ["someone else's", "FB1AAAA", "FB1" + "x" * 5000])
async def test_foreign_metadata_is_ignored_and_counted(broker: FakeBroker, metadata: str) -> None:
    broker.produce(texts(0, 1))
    broker.commits[P0] = Position(1, metadata)
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.count("metadata_ignored_total") == 1
    assert worker.flow.inputs == ["m1"]


async def test_a_topic_made_anew_is_read_from_its_beginning(broker: FakeBroker) -> None:
    broker.produce(texts(*range(10)))
    async with Worker(broker, FakeFlow(Gate("m2"))) as worker:
        await until(
            lambda: (
                worker.committed == 2
                and decode(2, broker.commits[P0].metadata).progress.hi_done == 10
            )
        )
        await worker.die()
    broker.logs.clear()
    broker.produce(texts(100))
    async with Worker(broker, FakeFlow()) as second:
        await until(lambda: second.committed == 1)
        assert second.flow.inputs == ["m100"]
        assert second.count("metadata_ignored_total") == 1


async def test_kafka_that_is_not_there_is_waited_for(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    worker.consumer.unreachable = True
    async with worker:
        await until(lambda: worker.engine._parts.trouble.reason == "KafkaUnreachable")
        assert not worker.engine.ready
        worker.consumer.unreachable = False
        await until(lambda: worker.committed == 1)


async def test_a_broken_consumer_is_made_anew(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    errors: Iterator[Exception] = iter([ConsumerBrokenError("gone"), KafkaUnavailableError("no")])
    poll = worker.consumer.poll

    async def breaking(*args: Any) -> Any:
        if (error := next(errors, None)) is not None:
            raise error
        return await poll(*args)

    monkeypatch.setattr(worker.consumer, "poll", breaking)
    async with worker:
        await until(lambda: worker.committed == 1)
        assert worker.consumer.stopped


async def test_a_consumer_that_cannot_be_stopped_ends_the_worker(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(broker, FakeFlow())
    worker.consumer.clean = False

    async def broken(*_: Any) -> Any:
        raise ConsumerBrokenError("gone")

    monkeypatch.setattr(worker.consumer, "poll", broken)
    async with worker:
        with pytest.raises(ConsumerBrokenError):
            await asyncio.wait_for(asyncio.shield(worker.task), 5)


async def test_a_consumer_that_is_stuck_is_made_anew(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STUCK_SECONDS", 0.05)
    worker = Worker(broker, FakeFlow())
    async with worker:
        await until(lambda: worker.committed == 0)
        read = worker.consumer._read

        def stuck(partition: Partition, most: int) -> Any:
            if not worker.consumer.stopped:
                return read(partition, 0)
            return read(partition, most)

        monkeypatch.setattr(worker.consumer, "_read", stuck)
        end = broker.end
        monkeypatch.setattr(broker, "end", lambda p: end(p) if worker.consumer.stopped else 0)

        async def ends(partitions: Any) -> Any:
            return {p: end(p) for p in partitions}

        monkeypatch.setattr(worker.consumer, "ends", ends)
        broker.produce(texts(0))
        await until(lambda: worker.committed == 1)
        assert worker.consumer.stopped


async def test_figures_tell_about_the_load(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    spec = {"concurrency": {"perReplica": 1}}
    async with Worker(broker, FakeFlow(gate), spec) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).oldest_timestamp_ms == 1_000)
        await until(lambda: figures(broker).busy > 0)
        gate.events["m0"].set()
        await until(lambda: worker.committed == 1)
        assert figures(broker).slots == 1
        assert (figures(broker).seconds_per_message or 0) > 0
        assert figures(broker).oldest_timestamp_ms is None


async def test_a_slow_partition_does_not_hold_the_others_back(broker: FakeBroker) -> None:
    """Two partitions, one slow: the other is committed meanwhile."""
    gate = Gate("m0")
    broker.produce(texts(0), 0)
    broker.produce(texts(1, 2), 1)
    worker = Worker(broker, FakeFlow(gate), {"concurrency": {"ordering": "Partition"}})
    worker.consumer.on_start = [P0, P1]
    async with worker:
        await until(lambda: P1 in broker.commits and broker.commits[P1].offset == 2)
        assert worker.committed == 0
        gate.events["m0"].set()
        await until(lambda: worker.committed == 1)
