"""Real workers on a real broker hand running calls to each other when partitions move."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from integration.flow_server import Call, FlowServer
from integration.history import assert_serial, repeated
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, create_topics, lag, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

GROUP, LITERAL, ALL, DENY = 3, 3, 2, 2
"""Numbers in Kafka's protocol: a resource type, a pattern type, an operation, a permission."""


PARTITIONS = 12
PACE = 40
"""Messages a second."""
CALL_SECONDS = 20.0
LONG, SHORT = 24, 120
"""How many keys have calls of that length, and how many have short ones."""


def numbered(number: int, keys: int) -> Message:
    return f"k{number % keys}".encode(), f"{number % keys} m{number}".encode()


def key_of(call: Call) -> str:
    return call.input.split()[0]


def events(worker: WorkerProcess, *names: str) -> Iterator[dict[str, Any]]:
    """Lines of a worker's log."""
    for line in worker.log.read_text().splitlines():
        if line.startswith("{") and (entry := json.loads(line))["event"] in names:
            yield entry


async def feed(bootstrap: str, topic: str, fed: dict[str, float]) -> None:
    """Messages with short calls at a steady pace, until cancelled; says when each was sent."""
    for second in itertools.count():
        numbers = range(second * PACE, (second + 1) * PACE)
        fed |= dict.fromkeys((f"{n % SHORT} m{n}" for n in numbers), time.monotonic())
        await produce(bootstrap, topic, (numbered(n, SHORT) for n in numbers))
        await asyncio.sleep(1)


@dataclass
class Rebalances:
    """How long each partition started nothing in each of a group's rebalances.

    Attributes:
        flow: Knows when calls started.
        fed: When messages were sent, by their text; 0.1 s later they are there.
        begun: What set each rebalance off, and when, in seconds of the flow server's clock.
    """

    flow: FlowServer
    fed: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        self.begun[name] = time.monotonic()

    def pauses(self, workers: Sequence[WorkerProcess], end: float) -> dict[str, list[float]]:
        """Seconds from when a partition was taken from its owner to its next call, by anybody.

        That is a call of a key that runs nothing. Where its message was sent later, from then on.
        """
        starts = defaultdict(list)
        for call in self.flow.calls:
            starts[call.place[0]].append((call.start, self.fed.get(call.input, -math.inf)))
        found: dict[str, list[float]] = {name: [] for name in self.begun}
        for at, partition in sorted(t for w in workers for t in taken(w) if t[0] < end):
            name = max((n for n in self.begun if self.begun[n] <= at), key=self.begun.__getitem__)
            after = [times for times in starts[partition] if times[0] >= at]
            start, came = min(after, default=(math.inf, at))
            found[name].append(max(0.0, start - max(at, came)))
        return found


def taken(worker: WorkerProcess) -> Iterator[tuple[float, int]]:
    """When partitions were taken from a worker, and which; also by its own end."""
    mine: list[str] = []
    for entry in events(worker, "partitions assigned", "partitions revoked", "stopping"):
        if entry["event"] == "partitions assigned":
            mine = entry["partitions"] + entry["kept"]
        else:
            gone = datetime.fromisoformat(entry["timestamp"]).timestamp() - entry.get("seconds", 0)
            at = gone - time.time() + time.monotonic()
            yield from ((at, int(name.rsplit("-", 1)[1])) for name in mine)
            mine = []


class Team:
    """Workers that come and go while calls of long before run on.

    Args:
        flow: Their server; calls named `long` last, the first of them until `released` is set.
        first: The worker that stays.
    """

    def __init__(self, flow: FlowServer, first: WorkerProcess) -> None:
        self.flow = flow
        self.workers = [first]
        self.rebalances = Rebalances(flow)
        self.released = asyncio.Event()
        self._there = [first]
        flow.answer = self._answer

    async def _answer(self, call: Call) -> web.Response | None:
        if key_of(call) == "long0":
            await self.released.wait()
        elif call.input.startswith("long"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.released.wait(), CALL_SECONDS)
        else:
            await asyncio.sleep(0.2)
        return None

    async def joined(self, worker: WorkerProcess) -> None:
        """Wait until a worker that has started has its share, and all partitions go on."""
        self.workers.append(worker)
        self._there.append(worker)
        self.rebalances.begin(f"{worker.log.stem} joins")
        await until(lambda: any(e["partitions"] for e in events(worker, "partitions assigned")))
        await self._goes_on(f"{worker.log.stem} joins")

    async def left(self, worker: WorkerProcess) -> asyncio.Task[int]:
        """End a worker, and wait until all partitions go on; gives its exit code to be."""
        self.rebalances.begin(f"{worker.log.stem} leaves")
        self._there.remove(worker)
        before = self._assignments()
        leaving = asyncio.create_task(worker.terminate())
        await until(lambda: before != self._assignments())
        await self._goes_on(f"{worker.log.stem} leaves")
        return leaving

    def _assignments(self) -> list[int]:
        return [len(list(events(w, "partitions assigned"))) for w in self._there]

    async def _goes_on(self, what: str) -> None:
        """All partitions have started something since, while a call of long before still runs."""
        before = len(self.flow.calls)

        async def all_moved() -> bool:
            return len({c.place[0] for c in self.flow.calls[before:]}) == PARTITIONS

        await until(all_moved, what=f"calls in all partitions: {what}")
        assert self.flow.inputs.count("long0 m0") == 1
        assert self.flow.calls[self.flow.inputs.index("long0 m0")].end is None

    def assert_calls_were_handed_over_and_not_waited_for(self, end: float) -> None:
        for name, seconds in self.rebalances.pauses(self.workers, end).items():
            middle, most = statistics.median(seconds), max(seconds)
            print(f"{name}: {len(seconds)} partitions stood for {middle:.2f} s, {most:.2f} s most")
            assert len(seconds) >= 4
            assert most < CALL_SECONDS
        moves = [e for w in self.workers for e in events(w, "partitions revoked")]
        print("handed over", [m["handed_over"] for m in moves], "s:", [m["seconds"] for m in moves])
        assert sum(move["handed_over"] for move in moves) > 0


async def test_workers_come_and_go_under_load_and_no_call_is_repeated_or_waited_for(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(PARTITIONS), await topic(1)
    spec = {
        "flow": flow.spec(),
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"perReplica": 60},
    }
    document = manifest(kafka.bootstrap, source, spec)
    slow = [(f"L{n % LONG}".encode(), f"long{n % LONG} m{n}".encode()) for n in range(3 * LONG)]
    await produce(kafka.bootstrap, source, slow)
    first, second, third = (
        WorkerProcess(tmp_path, document, f"worker-{number}") for number in range(3)
    )
    team = Team(flow, first)
    async with first:
        await until(lambda: flow.running == LONG)
        feeding = asyncio.create_task(feed(kafka.bootstrap, source, team.rebalances.fed))
        async with second:
            await team.joined(second)
            async with third:
                await team.joined(third)
                ends = [await team.left(third), await team.left(second)]
                end = time.monotonic()
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                team.released.set()
                assert [await exited for exited in ends] == [0, 0]

        await first.works_off(source, 60)
        assert await first.terminate() == 0
    team.assert_calls_were_handed_over_and_not_waited_for(end)
    assert not repeated(flow.calls)
    assert_serial(flow.calls, key_of)
    results = await read_all(kafka.bootstrap, out)
    assert len(results) == len({r.value for r in results}) == len(flow.calls) > 3 * LONG


async def test_messages_of_a_worker_that_dies_after_handing_over_run_after_its_lease(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(2), await topic(1)
    stuck = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if flow.inputs.count(call.input) == 1 and call.input.startswith("slow"):
            await stuck.wait()
        return None

    flow.answer = answer
    spec = {"flow": flow.spec(), "output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    for number in range(2):
        await produce(kafka.bootstrap, source, [(b"a", b"slow%d" % number)], partition=number)
    async with WorkerProcess(tmp_path, document) as first:
        await until(lambda: flow.running == 2)
        async with WorkerProcess(tmp_path, document, "worker-1") as second:

            async def held() -> bool:
                return await second.metric("held") == 1

            await until(held)
            await first.kill()
            await until(lambda: len(flow.calls) == 3, 30, "its message runs after the lease")
            assert await second.metric('handovers_total{outcome="TakenOver"}') == 1
            await until(lambda: flow.running == 2)
            stuck.set()
            assert await second.terminate() == 0
    assert len(await read_all(kafka.bootstrap, out)) == 1


async def test_a_sole_worker_that_ends_leaves_the_group_at_once_and_no_lag(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(2)
    flow.seconds = 4.0
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, [numbered(n, 8) for n in range(8)])
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: flow.running == 8)
        assert await worker.terminate() == 0
        [stopped] = events(worker, "stopped")
        assert stopped["left_at_once"]
        assert await lag(kafka.bootstrap, worker.group, source) == 0
    assert not repeated(flow.calls)


async def test_what_may_not_be_handed_over_is_waited_for(tmp_path: Path, flow: FlowServer) -> None:
    """As it is for a user who may use the consumer group and no other."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaBroker(tmp_path / "own", properties=properties) as broker:
        await create_topics(broker.bootstrap, "in", partitions=4)
        waited = asyncio.Event()

        async def answer(_: Call) -> web.Response | None:
            await waited.wait()
            return None

        flow.answer = answer
        document = manifest(broker.bootstrap, "in", {"flow": flow.spec()})
        async with WorkerProcess(tmp_path, document) as first:
            for lane in ("", "-1", "-2", "-3"):
                await deny(broker.bootstrap, f"{first.group}.handoff{lane}")
            await produce(broker.bootstrap, "in", [numbered(n, 40) for n in range(40)])
            await until(lambda: flow.running == 10)
            async with WorkerProcess(tmp_path, document, "worker-1") as second:

                async def waiting() -> bool:
                    return await first.metric('handovers_total{outcome="Waited"}') > 0

                await until(waiting, what="the group waits for running calls")
                waited.set()
                await first.works_off("in")
                assert await first.metric('handovers_total{outcome="HandedOver"}') == 0
                assert await second.metric('messages_total{outcome="succeeded"}') > 0
                assert await second.terminate() == 0
                assert await first.terminate() == 0
    assert not repeated(flow.calls)


async def deny(bootstrap: str, group: str) -> None:
    """Keep everybody from a consumer group."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        request = CreateAclsRequest(GROUP, group, LITERAL, "User:*", "*", ALL, DENY)
        answer = await client.send(client.get_random_node(), request)
        assert all(code == 0 for code, *_ in answer.creation_responses), answer
    finally:
        await client.close()
