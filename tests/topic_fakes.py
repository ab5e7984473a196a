"""A Kafka cluster's controller in memory, as far as topics are made."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from aiokafka.protocol.admin import CreatePartitionsRequest

from flowbinding_operator.kafka import Layout
from operator_fakes import FakeLink

DEFAULT_PARTITIONS = 1


class FakeAdmin:
    """Makes topics in a `FakeLink`, or refuses them with a code of Kafka's."""

    def __init__(self, link: FakeLink) -> None:
        self.link = link

    async def close(self) -> None:
        pass

    async def layout(self, topics: Iterable[str]) -> Layout:
        return await self.link.layout(topics)

    async def ask_controller(self, request: Any) -> Any:
        self.link.requests.append("controller")
        grow = isinstance(request, CreatePartitionsRequest)
        items = request._topic_partitions if grow else request._topics
        answers = []
        for name, first, *_ in items:
            code, text = self.link.refusals.get(name, (0, None))
            answers.append((name, code, text))
            if not code:
                count = first[0] if grow else first
                self.link.topic(name, count if count > 0 else DEFAULT_PARTITIONS)
        return SimpleNamespace(topic_errors=answers)
