"""Schemas of every kind with values: what another writer is given, and what is read."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import strategies as st

Case = tuple[Any, Any, Any]
"""A schema, a value for the writer, and what is read."""

NAMES = count()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def same(schema: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    return values.map(lambda value: (schema, value, value))


def changed(
    schema: Any, values: st.SearchStrategy[Any], become: Callable[[Any], Any]
) -> st.SearchStrategy[Case]:
    return values.map(lambda value: (schema, value, become(value)))


def utc(text: str) -> str:
    return text.replace("+00:00", "Z")


LONG = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC))
MILLIS = MOMENTS.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))
TIMES = st.times().map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000))
DECIMALS = st.decimals(1 - 10**12, 10**12 - 1, places=3)
PLAIN = [
    same("null", st.none()),
    same("boolean", st.booleans()),
    same("int", st.integers(-(2**31), 2**31 - 1)),
    same("long", LONG),
    same("float", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    same("double", st.floats(allow_nan=False, allow_infinity=False)),
    same("string", st.text(st.characters(exclude_categories=["Cs"]), max_size=300)),
]
LOGICAL = [
    changed({"type": "int", "logicalType": "date"}, st.dates(), dt.date.isoformat),
    changed(
        {"type": "int", "logicalType": "time-millis"},
        TIMES,
        lambda time: time.isoformat("milliseconds"),
    ),
    changed(
        {"type": "long", "logicalType": "time-micros"},
        st.times(),
        lambda time: time.isoformat("microseconds"),
    ),
    changed(
        {"type": "long", "logicalType": "timestamp-millis"},
        MILLIS,
        lambda moment: utc(moment.isoformat(timespec="milliseconds")),
    ),
    changed(
        {"type": "long", "logicalType": "timestamp-micros"},
        MOMENTS,
        lambda moment: utc(moment.isoformat(timespec="microseconds")),
    ),
    changed(
        {"type": "long", "logicalType": "local-timestamp-micros"},
        st.datetimes(),
        lambda moment: moment.isoformat(timespec="microseconds"),
    ),
    changed(
        {"type": "bytes", "logicalType": "decimal", "precision": 15, "scale": 3},
        DECIMALS,
        lambda number: f"{number + 0:f}" if number else "0.000",
    ),
    changed({"type": "string", "logicalType": "uuid"}, st.uuids(), str),
]


def record(fields: list[Case]) -> Case:
    named = [(f"f{index}", *field) for index, field in enumerate(fields)]
    schema = {
        "type": "record",
        "name": f"R{next(NAMES)}",
        "namespace": "some.where",
        "fields": [{"name": name, "type": schema} for name, schema, _, _ in named],
    }
    written = {name: value for name, _, value, _ in named}
    return schema, written, {name: value for name, _, _, value in named}


def listed(case: Case, size: int) -> Case:
    schema, value, expected = case
    return {"type": "array", "items": schema}, [value] * size, [expected] * size


def mapped(case: Case, keys: list[str]) -> Case:
    schema, value, expected = case
    return (
        {"type": "map", "values": schema},
        dict.fromkeys(keys, value),
        dict.fromkeys(keys, expected),
    )


def maybe(case: Case, null: bool) -> Case:
    schema, value, expected = case
    if schema == "null" or isinstance(schema, list):
        return case
    return ["null", schema], None if null else value, None if null else expected


def enum(symbols: list[str]) -> Case:
    schema = {"type": "enum", "name": f"E{next(NAMES)}", "symbols": symbols}
    return schema, symbols[-1], symbols[-1]


def fixed(raw: bytes) -> Case:
    return {"type": "fixed", "name": f"F{next(NAMES)}", "size": len(raw)}, raw, b64(raw)


LEAVES = st.one_of(
    *PLAIN,
    *LOGICAL,
    st.lists(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), min_size=1, unique=True).map(enum),
    st.binary(min_size=1, max_size=20).map(fixed),
    # On its own, an array of bytes is written in another way.
    st.binary(max_size=300).map(lambda raw: record([("bytes", raw, b64(raw))])),
)
CASES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(record),
        st.builds(listed, inner, st.integers(0, 3)),
        st.builds(mapped, inner, st.lists(st.text("abc", max_size=3), max_size=1)),
        st.builds(maybe, inner, st.booleans()),
    ),
    max_leaves=12,
)
