"""A worker on an in-memory Kafka that reads Avro, with and without its registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from broker_fakes import P0, FakeBroker
from flow_fakes import MockServer
from flowbinding_worker.files import Files
from flowbinding_worker.ports import FlowRequest
from flowbinding_worker.schemas import AvroReader
from registry_stand_in import Registry, encoded, framed
from schema_bench import PLAIN, UNREACHABLE, URL, order, ordered
from worker_fakes import FakeFlow, Worker, figures, until


class Running(Worker):
    """A worker that reads Avro, and asks `handler`."""

    def __init__(
        self,
        broker: FakeBroker,
        handler: Callable[[httpx.Request], httpx.Response],
        *values: bytes,
        **spec: Any,
    ) -> None:
        broker.produce([(b"k", value) for value in values])
        self.inputs: list[str] = []

        async def run(request: FlowRequest) -> str:
            self.inputs.append(request.input)
            return request.input

        registry = {"source": {"format": "Avro"}, "kafka": {"schemaRegistry": {"url": URL}}}
        super().__init__(broker, FakeFlow(run), {**registry, **spec})
        settings = self.binding.spec.kafka.schema_registry
        assert settings is not None
        self.reader = AvroReader(
            settings,
            Files(),
            lambda outcome: self.metrics.schema_requests.labels(outcome).inc(),
            MockServer(handler),
        )

    @property
    def letters(self) -> list[tuple[bytes | None, dict[str, bytes | None]]]:
        return [
            (value, headers)
            for topic, _, value, headers in self.broker.produced
            if topic.endswith(".dlq")
        ]


async def test_templates_filters_and_results_see_the_value_as_if_it_were_json(
    broker: FakeBroker,
) -> None:
    registry = Registry()
    number = order(registry)
    spec: dict[str, Any] = {
        "flow": {"input": "{{ value.n }} to {{ value.to.city }} ({{ text }})"},
        "output": {"value": "{{ result }}, {{ value.n + 1 }}", "key": "{{ value.to.city }}"},
    }
    async with Running(broker, registry, *(ordered(number, n) for n in (1, 2)), **spec) as worker:
        await until(lambda: worker.committed == 2)
    sent = [(key, value) for topic, key, value, _ in worker.broker.produced if topic == "out"]
    text = '{"n":%d,"to":{"city":"Köln"}}'
    assert sent == [
        ("Köln".encode(), f"{n} to Köln ({text % n}), {n + 1}".encode()) for n in (1, 2)
    ]
    assert worker.count('schema_requests_total{outcome="Found"}') == 2


async def test_an_outage_of_the_registry_stops_work_and_costs_no_message(
    broker: FakeBroker,
) -> None:
    registry = Registry()
    number = registry.add(PLAIN)
    values = [framed(number, encoded(PLAIN, {"message": f"m{n}"})) for n in range(20)]
    registry.answer = lambda _: httpx.Response(503)
    async with Running(broker, registry, *values) as worker:
        # More often than a message has attempts.
        await until(lambda: len(registry.asked) > 8)
        await until(lambda: P0 in worker.broker.commits)
        await until(lambda: figures(worker.broker).reason == UNREACHABLE)
        assert figures(worker.broker).message == "the schema registry answered 503"
        assert worker.inputs == []
        assert worker.broker.produced == []
        registry.answer = lambda _: None
        await until(lambda: worker.committed == 20)
        assert worker.inputs == [f"m{n}" for n in range(20)]
        assert worker.letters == []
        assert worker.count('flow_failures_total{failure="Transient"}') == 0
        await until(lambda: figures(worker.broker).reason == "")


async def test_a_registry_that_refuses_us_is_a_condition_and_makes_no_dead_letters(
    broker: FakeBroker,
) -> None:
    async with Running(broker, lambda _: httpx.Response(401), framed(1, b"x")) as worker:
        await until(lambda: P0 in worker.broker.commits)
        await until(lambda: figures(worker.broker).reason == "SchemaRegistryUnauthorized")
        assert worker.count("circuit_state") > 0
        assert worker.broker.produced == []


async def test_bad_messages_become_dead_letters_as_they_came_and_others_go_on(
    broker: FakeBroker,
) -> None:
    registry = Registry()
    number = registry.add(PLAIN)
    good = framed(number, encoded(PLAIN, {"message": "good"}))
    bad = [b"{}", framed(number, b"\4x"), framed(99, b"x")]
    async with Running(broker, registry, *bad, good) as worker:
        await until(lambda: worker.committed == 4)
    assert worker.inputs == ["good"]
    assert [value for value, _ in worker.letters] == bad
    reasons = [
        (headers["flowbinding-reason"], headers["flowbinding-attempts"])
        for _, headers in worker.letters
    ]
    assert reasons == [(b"DecodeFailed", b"1"), (b"DecodeFailed", b"1"), (b"SchemaUnknown", b"3")]
    assert worker.count("circuit_state") == 0
