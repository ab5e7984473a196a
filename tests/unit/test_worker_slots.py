"""Slots: runs that end before they have begun, faults that nobody waits for, and fairness."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from broker_fakes import P0, P1, FakeBroker
from flowbinding_worker.control.circuit import State
from flowbinding_worker.kafka.port import Batch
from flowbinding_worker.ports import Failure, FlowRequest
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.work import Work
from worker_fakes import FakeFlow, Worker, refuse, texts, until


def idle(worker: Worker) -> Work:
    """The worker's parts, once nothing but the test gives it messages."""
    worker.consumer.positions = {}
    return worker.engine._parts.work


def state(work: Work) -> State:
    return work.control.state


async def test_a_run_that_is_cancelled_before_its_first_step_frees_its_slot(
    broker: FakeBroker,
) -> None:
    async with Worker(broker, FakeFlow(), {"concurrency": {"perReplica": 2}}) as worker:
        await until(lambda: worker.engine.ready)
        work = idle(worker)
        broker.produce(texts(*range(4)))
        work.accept(Batch(P0, broker.logs[P0], 4, 4))
        work.slots.dispatch()
        assert work.scheduler.running == 2
        await work.runs.cancel(work.retire([P0]))
        assert work.scheduler.running == 0
        assert worker.flow.calls == []
        assert work.control.state is State.CLOSED


async def test_a_probe_that_is_cancelled_before_its_first_step_holds_up_no_other(
    broker: FakeBroker,
) -> None:
    flow = FakeFlow()
    flow.start_error = refuse(Failure.CONFIGURATION)
    async with Worker(broker, flow) as worker:
        work = worker.engine._parts.work
        await until(lambda: work.control.state is State.OPEN and worker.engine.ready)
        work = idle(worker)
        work.assign({P1: Tracker()}, {})
        broker.produce(texts(0))
        broker.produce(texts(1), number=1)
        await until(lambda: work.control.next_time(time.monotonic()) is None)
        work.accept(Batch(P0, broker.logs[P0], 1, 1))
        work.slots.dispatch()
        assert state(work) is State.HALF_OPEN
        await work.runs.cancel(work.retire([P0]))
        assert state(work) is State.OPEN
        work.accept(Batch(P1, broker.logs[P1], 1, 1))
        work.slots.dispatch()
        await until(lambda: flow.inputs == ["m1"])


async def test_a_flow_that_swallows_its_cancellation_does_not_cancel_what_comes_next(
    broker: FakeBroker,
) -> None:
    async def answer(request: FlowRequest) -> str:
        if request.input == "m0":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        elif request.input == "m1":
            # By itself: a fault of this message, and of no other.
            raise asyncio.CancelledError
        return request.input

    broker.produce(texts(0))
    spec = {"concurrency": {"perReplica": 1}}
    async with Worker(broker, FakeFlow(answer), spec) as worker:
        await until(lambda: worker.flow.inputs == ["m0"])
        work = idle(worker)
        work.assign({P1: Tracker()}, {})
        broker.produce(texts(1), number=1)
        work.accept(Batch(P1, broker.logs[P1], 1, 1))
        await work.runs.cancel(work.retire([P0]))
        await until(lambda: broker.sent_to("in.example.dlq") == [b"m1"])


def broken(self: Any, *_: object) -> None:
    raise ZeroDivisionError


async def test_a_fault_after_a_delivery_ends_the_worker(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbinding_worker.scheduler.Scheduler.finish", broken)
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow()) as worker:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(worker.task), 5)


async def test_a_fault_in_a_timer_ends_the_worker(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled = asyncio.Event()

    async def silent(*_: object) -> Any:
        polled.set()
        await asyncio.Event().wait()

    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.engine.ready)
        monkeypatch.setattr(worker.consumer, "poll", silent)
        await polled.wait()
        monkeypatch.setattr("flowbinding_worker.scheduler.Scheduler.wake", broken)
        asyncio.get_running_loop().call_soon(worker.engine._parts.work.slots.dispatch)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(worker.task), 5)


async def test_messages_that_are_filtered_out_leave_time_for_others(broker: FakeBroker) -> None:
    broker.produce(texts(*range(300)))
    spec = {"source": {"filter": "false"}, "concurrency": {"perReplica": 2}}
    async with Worker(broker, FakeFlow(), spec) as worker:
        steps = []
        while worker.committed < 300:
            before = worker.count('messages_total{outcome="filtered"}')
            await asyncio.sleep(0)
            steps.append(worker.count('messages_total{outcome="filtered"}') - before)
    assert max(steps) <= 4
