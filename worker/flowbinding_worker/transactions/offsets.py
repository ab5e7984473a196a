"""OffsetFetch as Kafka 2.5 has it (KIP-447): not answered with an offset that is being replaced.

aiokafka stops at version 3. On a broker older than 2.5 this asks as aiokafka does; the offset may
be an old one there for the moment between a transaction's end and the coordinator's notice of it.
"""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest_v3
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

UNSTABLE = 88
"""UNSTABLE_OFFSET_COMMIT: ask again soon."""
_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class OffsetFetchResponse_v7(Response):  # type: ignore[misc]  # noqa: N801, D101
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    )


class OffsetFetchRequest_v7(RequestStruct):  # type: ignore[misc]  # noqa: N801, D101
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse_v7
    SCHEMA = Schema(
        ("consumer_group", _TEXT),
        (
            "topics",
            CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS),
        ),
        ("require_stable", Boolean),
        _TAGS,
    )


class StableOffsetFetch(Request[OffsetFetchRequest_v3 | OffsetFetchRequest_v7]):  # type: ignore[misc]
    """Asks for the committed offset of one partition.

    Args:
        group: Consumer group.
        topic: Of the partition.
        partition: Its number.
    """

    API_KEY = 9

    def __init__(self, group: str, topic: str, partition: int) -> None:
        self._group = group
        self._topic = topic
        self._partition = partition

    def build(self, request_struct_class: Any) -> Any:
        """The request in a version that the broker knows; called by aiokafka."""
        if request_struct_class is OffsetFetchRequest_v7:
            topic: Any = (self._topic, [self._partition], {})
            return OffsetFetchRequest_v7(self._group, [topic], True, {})
        return OffsetFetchRequest_v3(self._group, [(self._topic, [self._partition])])


def answer_of(response: Any) -> tuple[int, int, str]:
    """Error code, offset (negative: none) and metadata of the one partition asked for."""
    if response.error_code:
        return response.error_code, -1, ""
    for topic in response.to_object()["topics"]:
        for partition in topic["partitions"]:
            return partition["error_code"], partition["offset"], partition["metadata"] or ""
    return 0, -1, ""
