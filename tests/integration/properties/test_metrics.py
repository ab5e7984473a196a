"""Metrics, held against what really happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from integration.flow_server import Call, FlowServer, refused
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

KINDS = {"good": 200, "skipped": 10, "poison": 5, "broken": 4, "shaky": 6}


def mixed() -> list[Message]:
    """All kinds, spread evenly: failures in a row would be taken for the flow's."""
    spread = [
        ((n + 0.5) / count, f"{kind}-{n}") for kind, count in KINDS.items() for n in range(count)
    ]
    return [(None, text.encode()) for _, text in sorted(spread)]


def by_kind(call: Call, flow: FlowServer) -> web.Response | None:
    """What becomes of a message says the first word of its text."""
    kind, nth = call.input.partition("-")[0], flow.inputs.count(call.input)
    if kind == "poison":
        return refused(422, "no")
    if kind == "broken":
        return refused(500, "component failed")
    return refused(503, "not now") if kind == "shaky" and nth == 1 else None


def expected(results: int, letters: int, calls: int) -> dict[str, float]:
    """Metrics of a worker that has worked off what `mixed` gave."""
    return {
        'messages_total{outcome="succeeded"}': results,
        'messages_total{outcome="filtered"}': 10,
        'messages_total{outcome="deadLettered"}': letters,
        'flow_failures_total{failure="Poison"}': 5,
        'flow_failures_total{failure="Transient"}': 12,
        'flow_failures_total{failure="Throttle"}': 6,
        "flow_request_duration_seconds_count": calls,
        **dict.fromkeys(["in_flight", "buffered", "parked", "consumer_lag", "circuit_state"], 0),
        "rebalances_total": 0,
    }


async def test_metrics_agree_with_what_happened(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, dead, out = await topic(2), await topic(1), await topic(1)
    gate = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        await gate.wait()
        await asyncio.sleep(0.02)
        return by_kind(call, flow)

    flow.answer = answer
    spec = {
        "source": {"filter": "not text.startswith('skipped')"},
        "flow": flow.spec(),
        "output": {"topic": out, "value": "{{ result }}"},
        "deadLetter": {"topic": dead},
        "retry": {"maxAttempts": 3},
        "concurrency": {"ordering": "None"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, mixed())
    total = sum(KINDS.values())
    async with WorkerProcess(tmp_path, document) as worker:

        async def full() -> bool:
            found = await worker.metrics()
            return found.get("in_flight") == 10 and found["buffered"] > 0

        await until(full)
        found = await worker.metrics()
        assert flow.running == 10
        assert total - 10 >= found["consumer_lag"] - found["in_flight"] >= found["buffered"]
        gate.set()

        await worker.works_off(source)
        found = await worker.metrics()
        letters = await read_all(kafka.bootstrap, dead)
        results = await read_all(kafka.bootstrap, out)
        assert await worker.terminate() == 0
    failed = Counter(call.input.partition("-")[0] for call in flow.calls if not call.ok)
    assert failed == {"poison": 5, "broken": 12, "shaky": 6}
    reasons = Counter(dict(letter.headers)["flowbinding-reason"].decode() for letter in letters)
    assert {
        name: value for name, value in found.items() if name.startswith("dead_letters_total")
    } == {f'dead_letters_total{{reason="{reason}"}}': n for reason, n in reasons.items()}
    assert found | expected(len(results), len(letters), len(flow.calls)) == found
    assert len(results) == 206
    assert len(letters) == 9


async def test_waiting_and_refused_messages_show(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    locked = False

    async def answer(call: Call) -> web.Response | None:
        if locked:
            return refused(403, "Invalid API key")
        if call.input == "later" and flow.inputs.count("later") == 1:
            return refused(429, "slow down", **{"Retry-After": "3"})
        return None

    flow.answer = answer
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, [(b"a", b"later"), (b"b", b"now")])
    async with WorkerProcess(tmp_path, document) as worker:

        async def waits() -> bool:
            found = await worker.metrics()
            return found.get("parked") == 1 and found["in_flight"] == 0

        await until(waits)
        found = await worker.metrics()
        assert found['flow_failures_total{failure="Throttle"}'] == 1
        assert found["consumer_lag"] == 2, "nothing before the first message can be done"

        await worker.commits(2)
        assert await worker.metric("parked") == 0
        locked = True
        await produce(kafka.bootstrap, source, [(b"c", b"refused")])

        async def opened() -> bool:
            return await worker.metric("circuit_state") in (1, 2)

        await until(opened)
        locked = False

        async def healed() -> bool:
            closed = await worker.metric("circuit_state") in (0, 3)
            return closed and await worker.committed() == 3

        await until(healed)
        refusals = sum(1 for call in flow.calls if call.input == "refused" and not call.ok)
        assert await worker.metric('flow_failures_total{failure="Configuration"}') == refusals
        assert await worker.terminate() == 0


async def test_rebalances_and_commits_are_counted(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source = await topic(2)
    document = manifest(kafka.bootstrap, source, {})
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(20)])
    async with WorkerProcess(tmp_path, document) as first:
        await first.commits(20)
        assert await first.metric("commits_total") >= 1
        for turn in range(1, 3):
            async with WorkerProcess(tmp_path, document, f"guest-{turn}") as guest:
                await until(guest.ready)

                async def shared(turn: int = turn) -> bool:
                    return await first.metric("rebalances_total") == 2 * turn - 1

                await until(shared)
                assert await guest.terminate() == 0

            async def alone(turn: int = turn) -> bool:
                return await first.metric("rebalances_total") == 2 * turn

            await until(alone)
        assert await first.terminate() == 0
