"""Kafka's requests about many consumer groups at once, in aiokafka's style, which has none of them.

FindCoordinator takes many groups since KIP-699, OffsetFetch since KIP-709: both with Kafka 3.0.
DescribeGroups always did, but aiokafka 0.14 reads the answer to its version 3 as one to version 2,
which goes well for one group only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiokafka.protocol.admin import (
    DescribeGroupsRequest_v0,
    DescribeGroupsRequest_v3,
    DescribeGroupsResponse_v3,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

GROUP_KEY = 0
"""What FindCoordinator is asked for: the coordinators of groups, not of transactions."""

_STRING = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class _OffsetFetchResponseV8(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            CompactArray(
                ("group", _STRING),
                (
                    "topics",
                    CompactArray(
                        ("topic", _STRING),
                        (
                            "partitions",
                            CompactArray(
                                ("partition", Int32),
                                ("offset", Int64),
                                ("leader_epoch", Int32),
                                ("metadata", _STRING),
                                ("error_code", Int16),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                ("error_code", Int16),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _OffsetFetchV8(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 8
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponseV8
    SCHEMA = Schema(
        (
            "groups",
            CompactArray(
                ("group", _STRING),
                (
                    "topics",
                    CompactArray(("topic", _STRING), ("partitions", CompactArray(Int32)), _TAGS),
                ),
                _TAGS,
            ),
        ),
        ("require_stable", Boolean),
        _TAGS,
    )


class OffsetFetchManyRequest(Request[_OffsetFetchV8]):  # type: ignore[misc]
    """Asks for all that some groups have committed, as aiokafka's request does for one."""

    API_KEY = 9

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_OffsetFetchV8]) -> _OffsetFetchV8:
        """The request as it is sent. No topics: all of them."""
        return request_struct_class([(group, None, {}) for group in self._groups], False, {})


class _FindCoordinatorResponseV4(Response):  # type: ignore[misc]
    API_KEY = 10
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "coordinators",
            CompactArray(
                ("key", _STRING),
                ("node", Int32),
                ("host", _STRING),
                ("port", Int32),
                ("error_code", Int16),
                ("error_message", _STRING),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _FindCoordinatorV4(RequestStruct):  # type: ignore[misc]
    API_KEY = 10
    API_VERSION = 4
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _FindCoordinatorResponseV4
    SCHEMA = Schema(("key_type", Int8), ("keys", CompactArray(_STRING)), _TAGS)


class FindCoordinatorsRequest(Request[_FindCoordinatorV4]):  # type: ignore[misc]
    """Asks for the coordinators of some groups."""

    API_KEY = 10

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_FindCoordinatorV4]) -> Any:
        """The request as it is sent."""
        return request_struct_class(GROUP_KEY, list(self._groups), {})


class _DescribeGroupsV3(DescribeGroupsRequest_v3):  # type: ignore[misc]
    RESPONSE_TYPE = DescribeGroupsResponse_v3


class DescribeManyRequest(Request[DescribeGroupsRequest_v0 | _DescribeGroupsV3]):  # type: ignore[misc]
    """Asks for the states of some groups."""

    API_KEY = 15

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """The request as it is sent."""
        if request_struct_class is _DescribeGroupsV3:
            return request_struct_class(list(self._groups), False)
        return request_struct_class(list(self._groups))
