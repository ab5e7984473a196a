"""A stop is never missed, in whichever moment it comes."""

from __future__ import annotations

import asyncio

import pytest

from broker_fakes import FakeBroker
from flowbinding_worker.ports import FlowRequest
from worker_fakes import FakeFlow, Worker, until

pytestmark = pytest.mark.timeout(60)


async def test_a_stop_under_load_ends_the_intake_at_any_moment() -> None:
    """Slots are full and turn over all the time: room for messages comes and goes."""

    async def answer(_: FlowRequest) -> str:
        for _turn in range(3):
            await asyncio.sleep(0)
        return "answer"

    for moment in range(30):
        broker = FakeBroker()
        broker.produce([(None, b"m%d" % n) for n in range(5000)])
        spec = {"concurrency": {"perReplica": 1, "ordering": "None"}}
        async with Worker(broker, FakeFlow(answer), spec) as worker:
            await until(lambda flow=worker.flow: len(flow.inputs) > 50)  # type: ignore[misc]
            for _turn in range(moment):
                await asyncio.sleep(0)
            worker.stop.ask()
            called = len(worker.flow.inputs)
            await asyncio.wait({worker.task}, timeout=1)
            assert len(worker.flow.inputs) <= called + 3, f"it goes on, stopped at {moment}"
