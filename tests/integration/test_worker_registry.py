"""Messages in Avro on a real broker, with their schemas in a registry.

The registry is a stand-in. With FLOWBINDING_TEST_REGISTRY, the base URL of a real one, it is that;
the outage is left out then. Apicurio 2.6.13 runs with Java 17 from its archive in Maven Central
(io.apicurio:apicurio-registry-app, classifier all, type tar.gz), at /apis/ccompat/v7.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, produce, read_until
from registry_stand_in import Registry, encoded, framed
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

REAL = os.environ.get("FLOWBINDING_TEST_REGISTRY")
COUNT = 60
INPUT = "{{ value.n }} {{ value.to.city if value.to else '-' }} {{ value.at }} {{ value.price }}"

ADDRESS = {
    "type": "record",
    "name": "Address",
    "namespace": "shop",
    "fields": [{"name": "city", "type": "string"}],
}
AT = {"type": "long", "logicalType": "timestamp-millis"}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}


def order(address: Any) -> dict[str, Any]:
    fields = {"n": "long", "to": ["null", address], "at": AT, "price": PRICE}
    return {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
    }


def message(number: int, n: int) -> Message:
    value = {
        "n": n,
        "to": {"city": "Köln"} if n % 2 else None,
        "at": datetime(2026, 11, 21, 10, 39, n, 250_000, tzinfo=UTC),
        "price": Decimal(n) / 4,
    }
    return f"k{n % 7}".encode(), framed(number, encoded(order(ADDRESS), value))


@asynccontextmanager
async def serving(registry: Registry) -> AsyncIterator[str]:
    if REAL:
        yield REAL
    else:
        async with registry.serving() as url:
            yield url


async def register(url: str, subject: str, body: Mapping[str, Any]) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/subjects/{subject}/versions", json=body) as answer,
    ):
        found = await answer.json(content_type=None)
        assert answer.status == 200, found
        return int(found["id"])


async def test_messages_in_avro(kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path) -> None:
    source, out, letters = await topic(3), await topic(1), await topic(1)
    registry = Registry()
    async with serving(registry) as url:
        subject = f"address-{uuid.uuid4().hex[:8]}"
        await register(url, subject, {"schema": json.dumps(ADDRESS)})
        reference = {"name": "shop.Address", "subject": subject, "version": 1}
        body = {"schema": json.dumps(order("shop.Address")), "references": [reference]}
        number = await register(url, f"{source}-value", body)
        unknown = framed(number + 1000, b"x")
        messages = [message(number, n) for n in range(COUNT)]
        await produce(kafka.bootstrap, source, [*messages, (b"a", unknown), (b"b", b"{}")])
        spec: dict[str, Any] = {
            "source": {"format": "Avro"},
            "kafka": {"schemaRegistry": {"url": url}},
            "flow": {"input": INPUT},
            "output": {"topic": out, "value": "{{ result }}"},
            "deadLetter": {"topic": letters},
        }
        registry.answer = lambda _: httpx.Response(503)
        async with WorkerProcess(tmp_path, manifest(kafka.bootstrap, source, spec)) as worker:
            if not REAL:
                await until(lambda: len(registry.asked) > 2)
                await until(lambda: "SchemaRegistryUnreachable" in worker.log.read_text())
                registry.answer = lambda _: None
            results = await read_until(kafka.bootstrap, out, COUNT)
            dead = await read_until(kafka.bootstrap, letters, 2)

            await worker.works_off(source)
            assert await worker.terminate() == 0
    assert sorted(record.value.decode() for record in results) == sorted(
        f"{n} {'Köln' if n % 2 else '-'} 2026-11-21T10:39:{n:02}.250Z {n / 4:.2f}"
        for n in range(COUNT)
    )
    reasons = {record.value: dict(record.headers)["flowbinding-reason"] for record in dead}
    assert reasons == {unknown: b"SchemaUnknown", b"{}": b"DecodeFailed"}
