"""The real worker's limits: outages, throttling, floods, unknown outcomes, shares of a whole."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from flowbinding_api import parse_binding
from flowbinding_worker.control.flood import ENOUGH
from flowbinding_worker.kafka.consumer import ConsumerSettings, KafkaConsumer
from flowbinding_worker.kafka.port import KafkaUnavailableError
from integration.flow_server import Call, FlowServer, refused
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import TopicFactory, create_topics, lag, produce, read_all, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


def text(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


async def test_an_outage_costs_no_message_and_hardly_a_call(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, slots, messages = await topic(6), 32, 1000
    down = False

    async def answer(call: Call) -> web.Response | None:
        return refused(503, "down for maintenance") if down else None

    flow.answer, flow.seconds = answer, 0.05
    spec = {"flow": flow.spec(), "concurrency": {"perReplica": slots}}
    document = manifest(kafka.bootstrap, source, spec)
    await create_topics(kafka.bootstrap, f"{source}.test.dlq", partitions=1)
    await produce(kafka.bootstrap, source, [(None, b"m%d" % n) for n in range(messages)])
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: len(flow.calls) > 200)
        down, before = True, len(flow.calls)

        async def shown() -> bool:
            return await worker.reason() == "FlowThrottled"

        await until(shown, 20)
        # Probes come 2 and 6 seconds after the first failure, and every 5 from then on.
        await until(lambda: time.monotonic() - flow.calls[before].start > 8)
        during = len(flow.calls) - before
        assert during <= 2 * slots + 2
        assert await lag(kafka.bootstrap, worker.group, source) > messages / 2
        down = False

        await worker.works_off(source, 30)
        assert await worker.metric("rebalances_total") == 0, "it stays a member all the time"
        assert await worker.metric("concurrency_limit") == slots
        assert await worker.terminate() == 0
    assert await read_all(kafka.bootstrap, f"{source}.test.dlq") == []
    good = [call for call in flow.calls if call.ok]
    assert len({call.place for call in good}) == messages
    # From the first answer of the probe on it takes five round trips to all slots.
    again = good.index(next(c for c in good if c.start > flow.calls[before].start + 8))
    assert len({call.place for call in good[again:]}) > messages / 2


async def test_a_date_to_come_back_at_is_kept_and_frees_the_slot(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)

    async def answer(call: Call) -> web.Response | None:
        if call.input != "busy" or flow.inputs.count("busy") > 1:
            return None
        # The header has no fractions of a second.
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)
        return refused(500, "rate limit reached", **{"Retry-After": date})

    flow.answer = answer
    spec = {"flow": flow.spec(), "concurrency": {"perReplica": 1}, "retry": {"maxAttempts": 1}}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(b"a", b"busy"), (b"b", b"other"), (b"a", b"next")])
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.commits(3)
        assert await worker.terminate() == 0
    assert flow.inputs == ["busy", "other", "busy", "next"]
    first, other, second, _ = flow.calls
    assert second.start - first.start >= 3
    assert other.start - first.start < second.start - other.start


async def test_runs_that_may_have_happened_are_not_repeated_where_they_must_not(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, dead = await topic(1), await topic(1)
    late = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        first = flow.inputs.count(call.input) == 1
        match call.input:
            case "slow":
                await late.wait()
            case "gateway":
                return refused(504, "upstream request timeout")
            case "lost":
                # The server drops the connection without an answer.
                raise asyncio.CancelledError
            case "refused" if first:
                return refused(502, "no upstream")
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(timeoutSeconds=2),
        "deadLetter": {"topic": dead},
        "retry": {"onTimeout": "DeadLetter"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    inputs = [b"slow", b"gateway", b"lost", b"refused", b"fine"]
    await produce(kafka.bootstrap, source, [(None, text) for text in inputs])
    async with WorkerProcess(tmp_path, document) as worker:
        letters = await read_until(kafka.bootstrap, dead, 3)

        await worker.commits(5)
        late.set()
        assert await worker.terminate() == 0
    assert {letter.value for letter in letters} == {b"slow", b"gateway", b"lost"}
    assert {text(x.headers)["flowbinding-reason"] for x in letters} == {"OutcomeUnknown"}
    assert sorted(flow.inputs) == ["fine", "gateway", "lost", "refused", "refused", "slow"]


async def test_a_topic_of_poison_stops_and_says_so(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, dead, slots = await topic(2), await topic(1), 10
    spec = {
        "source": {"format": "JSON"},
        "deadLetter": {"topic": dead},
        "concurrency": {"perReplica": slots},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, b"bad")] * 1000, partition=0)
    await produce(kafka.bootstrap, source, [(None, b"{}")] * 300, partition=1)
    async with WorkerProcess(tmp_path, document) as worker:

        async def stopped() -> bool:
            return await worker.reason() == "DeadLetterFlood"

        await until(stopped, 20)

        async def others() -> bool:
            return await worker.metric('messages_total{outcome="succeeded"}') == 300

        await until(others)
        assert await worker.ready()
        assert await worker.terminate() == 0
    letters = await read_all(kafka.bootstrap, dead)
    assert ENOUGH <= len(letters) <= ENOUGH + slots + 2


async def test_two_workers_share_what_all_may_do(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, whole = await topic(6), 6
    flow.seconds = 0.4
    spec = {
        "flow": flow.spec(),
        "concurrency": {"maxInFlight": whole, "perReplica": 10},
        "rateLimit": {"requestsPerMinute": 600},
    }
    document = manifest(kafka.bootstrap, source, spec)
    first = WorkerProcess(tmp_path, document, "worker-0")
    second = WorkerProcess(tmp_path, document, "worker-1")
    async with first, second:
        workers = (first, second)

        async def shared() -> bool:
            limits = [await worker.metric("concurrency_limit") for worker in workers]
            return limits == [whole / 2, whole / 2]

        await until(shared)
        await produce(kafka.bootstrap, source, [(None, b"m%d" % n) for n in range(40)])

        await first.works_off(source)
        for worker in workers:
            assert await worker.metric('messages_total{outcome="succeeded"}') > 0
        assert [await worker.terminate() for worker in workers] == [0, 0]
    assert len(flow.calls) == 40
    assert flow.most == whole
    starts = sorted(call.start for call in flow.calls)
    # 10 a second; each worker may have saved up a second's worth.
    assert starts[-1] - starts[0] >= (40 - 10) / 10 - 0.5


async def test_a_refused_login_is_told_from_a_broker_that_is_away(tmp_path: Path) -> None:
    document = manifest("unused:9092", "topic", {})
    settings = ConsumerSettings.of(parse_binding(document), 1.0, "worker-0")
    with KafkaBroker(tmp_path / "own", sasl=True, users={"app": "right"}) as broker:
        login = {
            "bootstrap_servers": broker.bootstrap,
            "security_protocol": broker.protocol,
            "sasl_plain_username": "app",
        }
        login |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_password": "canary-42"}
        consumer = KafkaConsumer(settings, lambda: login)
        with pytest.raises(KafkaUnavailableError) as refusal:
            await consumer.start(None)  # type: ignore[arg-type]
        assert refusal.value.reason == "KafkaUnauthorized"
        assert "refused the login" in str(refusal.value)
        assert "canary-42" not in str(refusal.value)
    with pytest.raises(KafkaUnavailableError) as refusal:
        await consumer.start(None)  # type: ignore[arg-type]
    assert refusal.value.reason == "KafkaUnreachable"
