"""The engine on an in-memory Kafka and flow: what becomes of messages and of their failures."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from broker_fakes import P0, FakeBroker
from flowbinding_api.offsets import decode
from flowbinding_worker import engine as engine_module
from flowbinding_worker.flows.classify import Answer, http_failure, run_failed, timed_out
from flowbinding_worker.kafka.port import KafkaUnavailableError
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Tokens
from worker_fakes import FakeFlow, Gate, Worker, figures, refuse, texts, until


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


async def test_tokens_are_added_up(broker: FakeBroker) -> None:
    answers = {"m0": FlowResult("a", tokens=Tokens(12, 3)), "m1": FlowResult("b"), "m2": "c"}

    async def answer(request: FlowRequest) -> Any:
        return answers.get(request.input, FlowResult("d", tokens=Tokens(8, 0)))

    broker.produce(texts(*range(4)))
    async with Worker(broker, FakeFlow(answer)) as worker:
        await until(lambda: worker.committed == 4)
        assert worker.count('tokens_total{kind="input"}') == 20
        assert worker.count('tokens_total{kind="output"}') == 3


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


async def test_stop_lets_running_messages_end_and_repeats_nothing(broker: FakeBroker) -> None:
    gate = Gate("m0", "m1")
    broker.produce(texts(*range(30)))
    async with Worker(broker, FakeFlow(gate), {"concurrency": {"perReplica": 2}}) as worker:
        await until(lambda: worker.flow.running == 2)
        worker.stop.ask()
        await until(lambda: worker.count("buffered") == 0)
        for event in gate.events.values():
            event.set()
        await asyncio.wait_for(asyncio.shield(worker.task), 10)
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


async def test_a_slot_does_not_wait_for_the_acknowledgement_of_a_result(
    broker: FakeBroker,
) -> None:
    spec = {"concurrency": {"perReplica": 1, "ordering": "Key"}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        worker.producer.gate = acknowledge = asyncio.Event()
        broker.produce([(b"a", b"m0"), (b"a", b"m1"), (b"b", b"m2"), (b"c", b"m3")])
        await until(lambda: len(worker.flow.inputs) == 2)
        # The next of its key does wait, and so does everybody once two results are on their way.
        assert worker.flow.inputs == ["m0", "m2"]
        assert worker.committed <= 0
        acknowledge.set()
        await until(lambda: worker.committed == 4)


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


@pytest.mark.parametrize(
    "error",
    [
        http_failure(Answer(500, "application/json", '{"detail": "no"}'), now=datetime.now(UTC)),
        http_failure(
            Answer(404, "application/json", '{"detail": "row not found"}'), now=datetime.now(UTC)
        ),
        run_failed("a component failed, or answered with an error message"),
        timed_out(1.0),
    ],
    ids=["500", "404-inside", "no-status", "timeout"],
)
async def test_messages_that_always_fail_leave_one_by_one(
    broker: FakeBroker, error: ProcessingError
) -> None:
    """The circuit must not keep a topic of bad messages for ever."""

    async def answer(request: FlowRequest) -> str:
        raise error

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


async def test_a_probe_that_is_due_waits_for_a_message_without_a_timer(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = FakeFlow()
    flow.start_error = refuse(Failure.CONFIGURATION)
    monkeypatch.setattr(engine_module, "HEAL_SECONDS", 60)
    async with Worker(broker, flow) as worker:
        work = worker.engine._parts.work
        await until(lambda: worker.engine.ready)
        # Nothing but timers may dispatch from here on.
        polling = asyncio.Event()

        async def silent(*_: Any) -> Any:
            await polling.wait()
            await asyncio.sleep(0.002)
            return []

        monkeypatch.setattr(worker.consumer, "poll", silent)
        await asyncio.sleep(0.05)
        assert work.control.allows(time.monotonic())
        dispatches = 0
        dispatch = work.slots.dispatch

        def counting() -> None:
            nonlocal dispatches
            dispatches += 1
            dispatch()

        monkeypatch.setattr(work.slots, "dispatch", counting)
        counting()
        await asyncio.sleep(0.1)
        assert dispatches == 1
        polling.set()


async def test_what_a_server_answered_is_in_no_log_above_debug(broker: FakeBroker) -> None:
    async def answer(request: FlowRequest) -> str:
        raise refuse(Failure.POISON, 422)

    broker.produce(texts(0))
    with structlog.testing.capture_logs() as logs:
        async with Worker(broker, FakeFlow(answer)) as worker:
            await until(lambda: worker.committed == 1)
    [failed] = [entry for entry in logs if entry["event"] == "attempt failed"]
    assert failed["status"] == 422
    levels = {entry["log_level"] for entry in logs if "because" in str(entry)}
    assert levels == {"debug"}
