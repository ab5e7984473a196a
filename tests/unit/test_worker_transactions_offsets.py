"""OffsetFetch with `require_stable`, and what is asked of brokers that do not have it."""

from __future__ import annotations

from io import BytesIO

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.commit import OffsetFetchResponse_v3

from flowbinding_worker.transactions.offsets import (
    OffsetFetchResponse_v7,
    StableOffsetFetch,
    answer_of,
)

REQUEST = StableOffsetFetch("g", "t", 5)


def test_a_broker_of_today_is_asked_for_a_stable_offset() -> None:
    prepared = REQUEST.prepare({9: (1, 9)})
    assert prepared.API_VERSION == 7
    assert prepared.FLEXIBLE_VERSION
    # group · one topic with one partition · require_stable · no tags
    expected = b"\x02g" + b"\x02\x02t\x02\x00\x00\x00\x05\x00" + b"\x01" + b"\x00"
    assert prepared.encode() == expected


def test_an_old_broker_is_asked_as_aiokafka_does() -> None:
    assert REQUEST.prepare({9: (0, 5)}).API_VERSION == 3
    with pytest.raises(IncompatibleBrokerVersion):
        REQUEST.prepare({})


@pytest.mark.parametrize("code", [0, 88])
def test_an_answer_of_version_7(code: int) -> None:
    partition = b"\x00\x00\x00\x05" + (7).to_bytes(8, "big") + b"\xff\xff\xff\xff"
    partition += b"\x03ab" + code.to_bytes(2, "big") + b"\x00"
    topics = b"\x02\x02t\x02" + partition + b"\x00"
    raw = b"\x00\x00\x00\x00" + topics + b"\x00\x00" + b"\x00"
    assert answer_of(OffsetFetchResponse_v7.decode(BytesIO(raw))) == (code, 7, "ab")


def test_an_answer_of_version_3() -> None:
    assert answer_of(OffsetFetchResponse_v3(0, [("t", [(5, 7, None, 0)])], 0)) == (0, 7, "")
    assert answer_of(OffsetFetchResponse_v3(0, [("t", [(5, -1, "", 0)])], 0)) == (0, -1, "")
    assert answer_of(OffsetFetchResponse_v3(0, [], 16)) == (16, -1, "")
    assert answer_of(OffsetFetchResponse_v3(0, [], 0)) == (0, -1, "")
