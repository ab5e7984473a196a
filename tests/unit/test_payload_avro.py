"""Avro's binary encoding: what another writer writes, and what nobody should have written."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avro_cases import CASES, Case, b64
from flowbinding_worker.payload.avro import Schema
from flowbinding_worker.payload.framing import unframed
from registry_stand_in import encoded, framed

LIST = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}

NESTED: Any = {"type": "record", "name": "E40", "fields": []}
"""Two to the power of 40 records, in no bytes at all."""
for number in reversed(range(40)):
    fields = [{"name": "a", "type": NESTED}, {"name": "b", "type": f"E{number + 1}"}]
    NESTED = {"type": "record", "name": f"E{number}", "fields": fields}


def read(schema: Any, body: bytes) -> Any:
    return Schema(json.dumps(schema)).value(body)


@settings(max_examples=60)
@given(case=CASES)
def test_what_another_writer_writes_is_read_as_the_data_that_json_has(case: Case) -> None:
    schema, value, expected = case
    found = read(schema, encoded(schema, value))
    assert found == expected
    assert json.loads(json.dumps(found)) == found


@settings(max_examples=60)
@given(case=CASES, data=st.data())
def test_a_value_that_ends_too_early_or_too_late_is_refused(
    case: Case, data: st.DataObject
) -> None:
    schema, value, _ = case
    body = encoded(schema, value)
    with pytest.raises(ValueError, match="left over"):
        read(schema, body + b"x")
    if body:
        with pytest.raises(ValueError, match=r"Read \d+ bytes, expected"):
            read(schema, body[: data.draw(st.integers(0, len(body) - 1))])


@settings(max_examples=60)
@given(case=CASES, body=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_are_refused(case: Case, body: bytes) -> None:
    with suppress(ValueError):
        json.dumps(read(case[0], body), allow_nan=False)


@settings(max_examples=30)
@given(number=st.integers(0, 2**31 - 1), body=st.binary())
def test_the_number_of_the_schema_comes_off(number: int, body: bytes) -> None:
    assert unframed(framed(number, body)) == (number, body)


@pytest.mark.parametrize("raw", [b"", b"\0\0\0\1", b'{"a": 1}', b"\1\0\0\0\1x"])
def test_a_value_without_the_number_of_a_schema(raw: bytes) -> None:
    with pytest.raises(ValueError, match="does not begin with a zero byte and the number"):
        unframed(raw)


RECORD = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {
            "name": "to",
            "type": {
                "type": "record",
                "name": "Place",
                "fields": [{"name": "city", "type": "string"}],
            },
        },
    ],
}


@pytest.mark.parametrize(
    ("schema", "body", "problem"),
    [
        (RECORD, b"\2\6Bo", "to.city: Read 2 bytes, expected 3 bytes"),
        (RECORD, b"\2\1", "to.city: Requested -1 bytes"),
        (RECORD, b"\2\4\xff\xff", "to.city: 'utf-8' codec can't decode"),
        (["null", "long"], b"\4", "there is no number 2 among 2 branches of a union"),
        (["null", "long"], b"\1", "there is no number -1 among 2 branches of a union"),
        (
            {"type": "enum", "name": "E", "symbols": ["A"], "default": "A"},
            b"\2",
            "there is no number 1 among 1 symbols of an enum",
        ),
        ("long", b"\xff" * 10 + b"\1", "Varint is too long"),
        # Some bytes of a message must not make gigabytes, or hours.
        ({"type": "array", "items": "null"}, b"\xfe\xff\xff\xff\x0f\0", "more items than"),
        (LIST, b"\2" * 1_000_000 + b"\0", "nested too deeply"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 4},
            b"\x90\x4e" + b"\x7f" * 5000,
            "a decimal of 5000 bytes",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 2**31 - 1, "scale": 2**31 - 2},
            b"\2\1",
            "with 2147483646 decimals",
        ),
        (NESTED, b"", "more items than"),
    ],
)
def test_bytes_that_do_not_fit_their_schema(schema: Any, body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(schema, body)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Expecting"),
        ("5", "not one of Avro's"),
        ('"Missing"', "Could not make an Avro Schema object from Missing"),
        ('{"type": "array"}', "not one of Avro's"),
        ('["int", "int"]', "int type already in Union"),
        ('{"type": "record", "name": "R"}', "not one of Avro's"),
        (
            '{"type": "fixed", "name": "F", "size": -1}',
            "requires a valid positive integer for size",
        ),
        ('{"type": "array", "items": ' * 2000 + '"int"' + "}" * 2000, "nested too deeply"),
    ],
)
def test_what_is_no_schema(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Schema(text)


@pytest.mark.parametrize("wrap", [lambda schema: schema, lambda schema: [schema]])
def test_the_text_about_a_schema_does_not_quote_it_at_each_level(
    wrap: Callable[[Any], Any],
) -> None:
    """Invalid at its bottom, as a record in records and as an array in arrays."""
    records: Any = {"type": "nothing", "doc": "x" * 20_000}
    arrays: Any = "nothing"
    for level in range(60):
        fields = [{"name": "f", "type": wrap(records)}]
        records = {"type": "record", "name": f"R{level}", "fields": fields}
        arrays = {"type": "array", "items": arrays}
    long = json.dumps({"type": "fixed", "name": "x" * 20_000, "size": 1})
    tracemalloc.start()
    try:
        for schema, references in ((records, []), (arrays, [long])):
            with pytest.raises(ValueError, match="Could not make an Avro Schema object from noth"):
                Schema(json.dumps(schema), references)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_records_that_all_refer_to_each_other() -> None:
    """As in the tree of an expression: there are more ways through them than can be counted."""
    names = [f"N{number}" for number in range(30)]
    schema: Any = None
    for number in reversed(range(30)):
        first = [*names[: number + 1], *([schema] if schema else [])]
        fields = [{"name": "a", "type": first}, {"name": "b", "type": ["null", *names]}]
        schema = {"type": "record", "name": names[number], "fields": fields}
    for kind in ({"type": "array", "items": "N1"}, {"type": "map", "values": "N1"}):
        assert Schema(json.dumps(kind), [json.dumps(schema)]).value(b"\0") in ([], {})


@pytest.mark.parametrize(
    ("schema", "body", "value"),
    [
        # Numbers that JSON does not have, dates that no calendar has.
        ("double", b"\0\0\0\0\0\0\xf8\x7f", "NaN"),
        ("float", b"\0\0\x80\xff", "-Infinity"),
        ({"type": "int", "logicalType": "date"}, b"\xff\xff\xff\xff\x0f", "-2147483648"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1",
            str(2**63 - 1),
        ),
        ({"type": "int", "logicalType": "time-millis"}, b"\1", "-1"),
        (
            {"type": "long", "logicalType": "timestamp-nanos"},
            b"\2",
            "1970-01-01T00:00:00.000000001Z",
        ),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 3}, b"\0", "0.000"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\2\x85", "-123"),
        # What does not fit, or is not known, is the plain type.
        ({"type": "string", "logicalType": "postcode"}, b"\2x", "x"),
        ({"type": "long", "logicalType": "date"}, b"\2", 1),
        ({"type": "long", "logicalType": "timestamp-hours"}, b"\2", 1),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3},
            b"\2\1",
            b64(b"\1"),
        ),
        (
            {"type": "fixed", "name": "D", "size": 2, "logicalType": "duration"},
            b"\1\2",
            b64(b"\1\2"),
        ),
        # More digits than its precision: none is lost.
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            b"\6\x7f\xff\xff",
            "83886.07",
        ),
        (
            {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"},
            b"\1\0\0\0\2\0\0\0\3\0\0\0",
            {"months": 1, "days": 2, "milliseconds": 3},
        ),
        (
            {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
            bytes(range(16)),
            "00010203-0405-0607-0809-0a0b0c0d0e0f",
        ),
        # Blocks that say how many bytes they have.
        ({"type": "array", "items": "long"}, b"\3\4\2\4\2\6\0", [1, 2, 3]),
        ({"type": "map", "values": "long"}, b"\1\6\2a\2\0", {"a": 1}),
        # Java's serializer writes an array of bytes as it is.
        ("bytes", b"\1\2", b64(b"\1\2")),
        (LIST, b"\2\2\0", {"next": {"next": {"next": None}}}),
    ],
)
def test_particular_values(schema: Any, body: bytes, value: Any) -> None:
    assert read(schema, body) == value


def test_decimals_are_exact() -> None:
    schema = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 2}
    number = Decimal("123456789012345678901234567890123456.78")
    assert read(schema, encoded(schema, number)) == str(number)


def test_names_are_found_in_the_namespace_that_they_are_used_in() -> None:
    inner = {"type": "enum", "name": "Size", "symbols": ["S", "L"]}
    outer = {
        "type": "record",
        "name": "shop.Order",
        "fields": [
            {"name": "a", "type": inner},
            {"name": "b", "type": "Size"},
            {"name": "c", "type": "shop.Size"},
            {"name": "d", "type": {"type": "array", "items": {"type": "Size"}}},
        ],
    }
    assert read(outer, b"\2\0\2\2\2\0") == {"a": "L", "b": "S", "c": "L", "d": ["L"]}


def test_names_of_other_schemas() -> None:
    address = {"type": "enum", "name": "x.Size", "symbols": ["S", "L"]}
    order = {"type": "record", "name": "x.O", "fields": [{"name": "s", "type": "Size"}]}
    schema = Schema(json.dumps(["x.O", "x.Size"]), [json.dumps(address), json.dumps(order)])
    assert schema.value(b"\0\2") == {"s": "L"}
