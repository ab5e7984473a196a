"""What an operator with a thousand bindings must not spend its time on, and how it is counted."""

from __future__ import annotations

from typing import Any

import kopf
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from flowbinding_operator.kafka import KafkaLink
from flowbinding_operator.main import kopf_settings


class Answering:
    """A connection that answers whatever it is asked."""

    host, port = "kafka", 9092

    def connected(self) -> bool:
        return True

    async def send(self, request: Any) -> str:
        return "answer"


async def test_requests_are_counted_by_kafka_s_names() -> None:
    asked: list[str] = []
    link = KafkaLink({"bootstrap_servers": "kafka:9092"}, asked=asked.append)
    link._connections[1] = Answering()
    for request in (OffsetRequest(-1, 0, []), OffsetFetchRequest("group", None)):
        assert await link._send(1, request) == "answer"
    assert asked == ["ListOffsets", "OffsetFetch"]


def test_kopf_neither_copies_nor_writes_an_object() -> None:
    storage = kopf_settings().persistence.diffbase_storage
    body = kopf.Body({"metadata": {"name": "x"}, "spec": {"a": 1}})
    patch = kopf.Patch()
    essence = storage.build(body=body, extra_fields=None)
    storage.store(body=body, patch=patch, essence=essence)
    assert (dict(essence), storage.fetch(body=body), dict(patch)) == ({}, None, {})
