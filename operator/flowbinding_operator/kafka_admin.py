"""Kafka's requests that make topics.

aiokafka's admin client cannot leave partitions and copies to the brokers' defaults: KIP-464 came
with version 4 of CreateTopics, and it knows up to 3. So this adds that version to its protocol
classes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.protocol.admin import (
    CreatePartitionsRequest,
    CreateTopicsRequest_v3,
    CreateTopicsResponse_v3,
)
from aiokafka.protocol.api import Request, RequestStruct, Response

from flowbinding_operator.topics import Answer

BROKER_MS = 15_000
"""How long the brokers may take to make a topic before they say so."""
BROKERS_CHOICE = -1

Ask = Callable[[Any], Awaitable[Any]]
"""Sends a request to the controller, and returns its answer."""


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to be made; what is None is the brokers' default."""

    name: str
    partitions: int | None = None
    replication_factor: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)


class _CreateTopicsResponseV4(Response):  # type: ignore[misc]
    API_KEY = 19
    API_VERSION = 4
    SCHEMA = CreateTopicsResponse_v3.SCHEMA


class _CreateTopicsV4(RequestStruct):  # type: ignore[misc]
    API_KEY = 19
    API_VERSION = 4
    RESPONSE_TYPE = _CreateTopicsResponseV4
    SCHEMA = CreateTopicsRequest_v3.SCHEMA


class _CreateTopics(Request[_CreateTopicsV4]):  # type: ignore[misc]
    API_KEY = 19

    def __init__(self, topics: list[Any]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_CreateTopicsV4]) -> _CreateTopicsV4:
        return request_struct_class(self._topics, BROKER_MS, False)


async def create_topics(ask: Ask, topics: Sequence[NewTopic]) -> list[Answer]:
    """Create topics; returns what became of each.

    Raises:
        ClusterError: From `ask`: the cluster does not answer, or is older than Kafka 2.4.
    """
    request = _CreateTopics(
        [
            (
                topic.name,
                topic.partitions or BROKERS_CHOICE,
                topic.replication_factor or BROKERS_CHOICE,
                [],
                list(topic.config.items()),
            )
            for topic in topics
        ]
    )
    return await _answers(ask, request)


async def grow_topics(ask: Ask, counts: Mapping[str, int]) -> list[Answer]:
    """Give topics so many partitions; returns what became of each.

    Raises:
        ClusterError: As for `create_topics`.
    """
    wanted: list[Any] = [(name, (count, None)) for name, count in counts.items()]
    return await _answers(ask, CreatePartitionsRequest(wanted, BROKER_MS, False))


async def _answers(ask: Ask, request: Any) -> list[Answer]:
    answer = await ask(request)
    return [
        Answer(topic, code, _name(code), text or "") for topic, code, text in answer.topic_errors
    ]


def _name(code: int) -> str:
    return str(kafka_errors.for_code(code).__name__).removesuffix("Error")
