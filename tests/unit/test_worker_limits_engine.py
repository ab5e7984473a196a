"""The engine's limits on an in-memory Kafka and flow: floods, shares, rates, unknown outcomes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from broker_fakes import P0, FakeBroker
from flowbinding_worker import slots as slots_module
from flowbinding_worker.control import circuit, flood
from flowbinding_worker.flows.classify import timed_out
from flowbinding_worker.ports import Failure, FlowRequest
from worker_fakes import FakeFlow, Gate, Worker, figures, refuse, texts, until

DEAD = "in.example.dlq"


async def test_a_run_that_may_have_happened_is_a_dead_letter_where_it_must_not_repeat(
    broker: FakeBroker,
) -> None:
    async def answer(request: FlowRequest) -> str:
        if request.input == "m0":
            raise timed_out(1.0)
        return request.input

    broker.produce(texts(0, 1))
    spec = {"retry": {"onTimeout": "DeadLetter"}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.count('dead_letters_total{reason="OutcomeUnknown"}') == 1
    assert sorted(worker.flow.inputs) == ["m0", "m1"]
    [headers] = [headers for topic, _, _, headers in broker.produced if topic == DEAD]
    assert headers["flowbinding-reason"] == b"OutcomeUnknown"
    assert b"onTimeout" in (headers["__connect.errors.exception.message"] or b"")


async def test_no_run_repeats_while_the_circuit_is_open_either(broker: FakeBroker) -> None:
    async def answer(request: FlowRequest) -> str:
        raise timed_out(1.0)

    broker.produce(texts(*range(40)))
    spec = {"retry": {"onTimeout": "DeadLetter"}, "deadLetter": {"floodGuard": False}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.committed == 40)
    assert len(worker.flow.inputs) == len(set(worker.flow.inputs)) == 40
    assert len(broker.sent_to(DEAD)) == 40


async def test_a_message_is_not_tried_for_ever(broker: FakeBroker) -> None:
    async def answer(request: FlowRequest) -> str:
        if request.input == "m0":
            raise refuse(Failure.THROTTLE)
        return request.input

    broker.produce(texts(*range(60)))
    retry = {"initialBackoffSeconds": 0.1, "maxBackoffSeconds": 0.1, "maxElapsedSeconds": 0.2}
    spec = {"retry": {**retry, "maxAttempts": 1000}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.committed == 60)
    assert broker.sent_to(DEAD) == [b"m0"]
    calls = [call.start for call in worker.flow.calls if call.input == "m0"]
    assert calls[-1] - calls[0] >= 0.19, "the last attempt is made when the time is up"


async def test_a_flood_of_dead_letters_stops_its_partition_and_says_so(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood, "TRIAL_SECONDS", 0.3)
    broker.produce([(None, b"not json")] * 400)
    broker.produce([(None, b'{"message": "good"}')] * 50, number=1)
    spec = {"source": {"format": "JSON"}, "concurrency": {"perReplica": 5}}
    worker = Worker(broker, FakeFlow(), spec)
    worker.consumer.on_start = [P0, (other := type(P0)("in", 1))]
    async with worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == "DeadLetterFlood")
        assert "in-0" in figures(broker).message
        await until(lambda: broker.commits[other].offset == 50)
        dead = len(broker.sent_to(DEAD))
        assert dead <= flood.ENOUGH + 5 + 3
        await until(lambda: len(broker.sent_to(DEAD)) >= dead + 3)
        trials = len(broker.sent_to(DEAD)) - dead
        assert figures(broker).reason == "DeadLetterFlood"
        assert trials <= 5, "one by one"
    assert len(broker.sent_to(DEAD)) < 400


async def test_a_success_ends_a_flood(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "TRIAL_SECONDS", 0.05)
    broker.produce([*[(None, b"not json")] * 110, *[(None, b'{"message": "good"}')] * 60])
    spec = {"source": {"format": "JSON"}, "concurrency": {"perReplica": 1}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == "DeadLetterFlood")
        await until(lambda: worker.committed == 170)
        await until(lambda: figures(broker).reason == "")
    assert len(worker.flow.calls) == 60


async def test_discarded_messages_are_a_flood_too(broker: FakeBroker) -> None:
    broker.produce([(None, b"not json")] * 400)
    spec = {"source": {"format": "JSON"}, "deadLetter": {"enabled": False}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).reason == "DeadLetterFlood")
        assert worker.committed < 400


@pytest.mark.parametrize(("count", "slots"), [(4, 2), (1, 8), (100, 1)])
async def test_a_worker_takes_its_share_of_what_all_may_run(
    broker: FakeBroker, count: int, slots: int
) -> None:
    inputs = [f"m{n}" for n in range(20)]
    gate = Gate(*inputs)
    broker.produce([(None, text.encode()) for text in inputs])
    worker = Worker(broker, FakeFlow(gate), {"concurrency": {"maxInFlight": 8}})
    worker.consumer.count = count
    async with worker:
        await until(lambda: worker.flow.running == slots)
        await until(lambda: P0 in broker.commits and figures(broker).slots == slots)
        assert worker.count("concurrency_limit") == slots
        for event in gate.events.values():
            event.set()
        await until(lambda: worker.committed == 20)
    assert worker.flow.most == slots


async def test_runs_begin_at_the_rate_that_is_set(broker: FakeBroker) -> None:
    failed: set[str] = set()

    async def answer(request: FlowRequest) -> str:
        if request.input not in failed:
            failed.add(request.input)
            raise refuse(Failure.TRANSIENT)
        return request.input

    broker.produce(texts(*range(15)))
    spec = {"rateLimit": {"requestsPerMinute": 1200}, "concurrency": {"perReplica": 100}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.committed == 15)
    starts = [call.start for call in worker.flow.calls]
    assert len(starts) == 30
    # 20 at once, and 20 a second from then on: retries count too.
    assert starts[29] - starts[0] >= 0.45
    assert broker.sent_to(DEAD) == []


async def test_filtered_messages_need_no_rate(broker: FakeBroker) -> None:
    broker.produce([(None, b'{"n": 1}')] * 500)
    spec = {"source": {"filter": "value.n > 1"}, "rateLimit": {"requestsPerMinute": 1}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        await until(lambda: worker.committed == 500)


async def test_a_server_that_asks_for_less_gets_less(broker: FakeBroker) -> None:
    """It takes three at once and says no to more; nothing is lost or dead for that."""

    async def answer(request: FlowRequest) -> str:
        if flow.running > 3:
            raise refuse(Failure.THROTTLE, 429)
        await asyncio.sleep(0.02)
        return request.input

    flow = FakeFlow(answer)
    broker.produce(texts(*range(200)))
    async with Worker(broker, flow, {"concurrency": {"perReplica": 10}}) as worker:
        await until(lambda: worker.committed == 200, 30)
        assert worker.count("concurrency_limit") <= 5
    assert broker.sent_to(DEAD) == []
    assert len(flow.calls) <= 300, "it is not asked for more all the time"


async def test_a_fault_of_ours_is_not_tried_for_ever_while_the_circuit_is_open(
    broker: FakeBroker,
) -> None:
    async def answer(request: FlowRequest) -> str:
        raise RuntimeError("bug")

    broker.produce(texts(*range(30)))
    # Printing a traceback takes longer than all the rest.
    with structlog.testing.capture_logs():
        async with Worker(broker, FakeFlow(answer)) as worker:
            await until(lambda: worker.count("circuit_state") in (1, 2))
            await until(lambda: worker.committed == 30, 30)
    assert len(broker.sent_to(DEAD)) == 30


async def test_a_probe_that_becomes_due_at_this_very_moment_is_not_forgotten(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but a timer starts it while no message comes."""

    async def answer(request: FlowRequest) -> str:
        if len(flow.calls) == 1:
            raise refuse(Failure.CONFIGURATION)
        return request.input

    polled = asyncio.Event()

    async def silent(*_: Any) -> Any:
        polled.set()
        await asyncio.Event().wait()

    flow = FakeFlow(answer)
    monkeypatch.setattr(circuit, "FIRST_PROBE_SECONDS", 0.5)
    monkeypatch.setattr(circuit, "MAX_PROBE_SECONDS", 0.5)
    broker.produce(texts(0))
    async with Worker(broker, flow) as worker:
        work = worker.engine._parts.work
        await until(lambda: work.control.is_open and work.scheduler.buffered == 1)
        monkeypatch.setattr(worker.consumer, "poll", silent)
        await polled.wait()
        due = work.control.next_time(time.monotonic())
        assert due is not None
        clock = iter([due - 1e-6])
        slow = SimpleNamespace(monotonic=lambda: next(clock, due + 1e-6))
        with monkeypatch.context() as patched:
            patched.setattr(slots_module, "time", slow)
            work.slots.dispatch()
        await until(lambda: len(flow.calls) == 2, 3)
