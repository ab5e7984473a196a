"""What values of Avro's types become as the data that JSON has (Avro 1.12, "Logical types").

    float, double                     the number; text where JSON has none: NaN, Infinity
    bytes, fixed                      base64 text
    date                              2026-11-21
    time-millis, time-micros          10:39:18.250, 10:39:18.250000
    timestamp-millis, -micros, -nanos 2026-11-21T10:39:18.250Z, with 3, 6 or 9 digits
    local-timestamp-...               the same without Z
    decimal                           12.50: text, as no number of JSON's holds it for certain
    uuid                              text
    duration                          {"months": 1, "days": 2, "milliseconds": 3}

Dates beyond the years 1 to 9999, and times that no day has, stay numbers, as text. A logical type
that is not one of these, or does not fit its type, is ignored, as Avro asks for.
"""

from __future__ import annotations

import base64
import math
import struct
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from avro.schema import BytesDecimalSchema, FixedDecimalSchema

MAX_DECIMAL_BYTES, MAX_SCALE = 1024, 10_000
"""2,466 digits. Making text of a number takes time by the square of its length."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _number(_: Any, number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _date(_: Any, days: int) -> str:
    try:
        return (_EPOCH + timedelta(days=days)).date().isoformat()
    except OverflowError:
        return str(days)


def _time(digits: int, _: Any, number: int) -> str:
    seconds, rest = divmod(number, 10**digits)
    if not 0 <= seconds < 86400:
        return str(number)
    return f"{_EPOCH + timedelta(seconds=seconds):%H:%M:%S}.{rest:0{digits}}"


def _timestamp(digits: int, zone: str, _: Any, number: int) -> str:
    seconds, rest = divmod(number, 10**digits)
    try:
        moment = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)
    except OverflowError:
        return str(number)
    return f"{moment.isoformat()}.{rest:0{digits}}{zone}"


def _bytes(schema: Any, raw: bytes) -> Any:
    logical = schema.get_prop("logicalType")
    if isinstance(schema, BytesDecimalSchema | FixedDecimalSchema):
        return _decimal(schema.scale, raw)
    if schema.type == "fixed" and logical == "uuid" and len(raw) == 16:
        return str(uuid.UUID(bytes=raw))
    if schema.type == "fixed" and logical == "duration" and len(raw) == 12:
        parts = struct.unpack("<III", raw)
        return dict(zip(("months", "days", "milliseconds"), parts, strict=True))
    return base64.b64encode(raw).decode("ascii")


def _decimal(scale: int, raw: bytes) -> str:
    """The library's is rounded, and takes minutes for a megabyte."""
    if len(raw) > MAX_DECIMAL_BYTES or scale > MAX_SCALE:
        raise ValueError(f"a decimal of {len(raw)} bytes, with {scale} decimals")
    number = int.from_bytes(raw, "big", signed=True)
    return f"{Decimal(f'{number}e-{scale}'):f}"


PLAIN: Mapping[str, Callable[[Any, Any], Any]] = {
    "float": _number,
    "double": _number,
    "bytes": _bytes,
    "fixed": _bytes,
}
"""By type: makes, of a schema and a value that the library has read, what JSON has."""
LOGICAL: Mapping[tuple[str, Any], Callable[[Any, Any], Any]] = {
    ("int", "date"): _date,
    ("int", "time-millis"): partial(_time, 3),
    ("long", "time-micros"): partial(_time, 6),
    **{
        ("long", f"{kind}-{unit}"): partial(_timestamp, digits, zone)
        for kind, zone in (("timestamp", "Z"), ("local-timestamp", ""))
        for unit, digits in (("millis", 3), ("micros", 6), ("nanos", 9))
    },
}
"""The same by type and logical type. A uuid in a string is text as it is."""
