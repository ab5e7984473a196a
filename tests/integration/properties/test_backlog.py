"""A large backlog: memory, fetched bytes and fairness are those of a small one."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from integration.flow_server import FlowServer
from integration.kafka_proxy import FETCH, proxied_broker
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import create_topics, produce

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

PARTITIONS, MESSAGES, BYTES = 6, 100_000, 1024
CONSUMED = 6_000
MIB = 1024 * 1024


async def test_a_backlog_costs_no_memory_and_no_second_fetch_and_starves_no_partition(
    tmp_path: Path, flow: FlowServer
) -> None:
    async with proxied_broker(tmp_path / "own") as (proxy, broker):
        await create_topics(broker.bootstrap, "in", partitions=PARTITIONS)
        noise = os.urandom(BYTES)
        await produce(broker.bootstrap, "in", ((b"%d" % n, noise) for n in range(MESSAGES)))
        flow.seconds = 0.015
        spec = {
            "source": {"format": "Bytes"},
            "flow": flow.spec(input="{{ offset }}"),
            "concurrency": {"perReplica": 8, "ordering": "None"},
        }
        document = manifest(broker.bootstrap, "in", spec)
        async with WorkerProcess(tmp_path, document) as worker:
            await until(lambda: len(flow.answered) > 500)
            early = worker.memory()
            await until(lambda: len(flow.answered) >= CONSUMED, 90)
            late = worker.memory()
            served = Counter(call.place[0] for call in flow.calls)
            fetched = proxy.received[FETCH, "flowbinding-worker-0"]
            assert await worker.metric("rebalances_total") == 0
            assert await worker.metric("consumer_lag") >= MESSAGES - CONSUMED - 1000
            assert await worker.terminate() == 0
    assert late - early < 16 * MIB
    assert late < 120 * MIB
    assert CONSUMED * BYTES < fetched <= 3 * CONSUMED * BYTES
    assert len(served) == PARTITIONS
    assert max(served.values()) <= 2 * min(served.values())
