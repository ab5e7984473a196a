"""What Avro's logical types become (Avro 1.12, "Logical types").

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

import struct
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

_Convert = Callable[[Any], Any]
_Make = Callable[[Mapping[str, Any]], _Convert | None]

MAX_DECIMAL_BYTES = 1024
"""2,466 digits. Making text of a number takes time by the square of its length."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86400
_DURATION = struct.Struct("<III")
_PER_SECOND = {"millis": 1_000, "micros": 1_000_000, "nanos": 1_000_000_000}
_DIGITS = {1_000: 3, 1_000_000: 6, 1_000_000_000: 9}


def _date(days: int) -> str:
    try:
        return date.fromordinal(_EPOCH_DAY + days).isoformat()
    except (ValueError, OverflowError):
        return str(days)


def _time(per_second: int, number: int) -> str:
    seconds, rest = divmod(number, per_second)
    if not 0 <= seconds < _DAY_SECONDS:
        return str(number)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}.{rest:0{_DIGITS[per_second]}}"


def _timestamp(per_second: int, zone: str, number: int) -> str:
    seconds, rest = divmod(number, per_second)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return str(number)
    text = moment.replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{text}.{rest:0{_DIGITS[per_second]}}{zone}"


def _decimal(scale: int, raw: bytes) -> str:
    if len(raw) > MAX_DECIMAL_BYTES:
        raise ValueError(f"a decimal of {len(raw)} bytes")
    number = int.from_bytes(raw, "big", signed=True)
    digits = str(abs(number)).rjust(scale + 1, "0")
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else f"{sign}{digits}"


def _make_decimal(schema: Mapping[str, Any]) -> _Convert | None:
    scale, precision = schema.get("scale", 0), schema.get("precision")
    valid = type(scale) is int and type(precision) is int and 0 <= scale <= precision <= 10_000
    return partial(_decimal, scale) if valid else None


def _make_uuid(schema: Mapping[str, Any]) -> _Convert | None:
    return (lambda raw: str(uuid.UUID(bytes=raw))) if schema["size"] == 16 else None


def _duration(raw: bytes) -> dict[str, int]:
    return dict(zip(("months", "days", "milliseconds"), _DURATION.unpack(raw), strict=True))


def _make_duration(schema: Mapping[str, Any]) -> _Convert | None:
    return _duration if schema["size"] == _DURATION.size else None


def _always(convert: _Convert) -> _Make:
    return lambda _: convert


LOGICAL: Mapping[tuple[str, Any], _Make] = {
    ("int", "date"): _always(_date),
    ("int", "time-millis"): _always(partial(_time, 1_000)),
    ("long", "time-micros"): _always(partial(_time, 1_000_000)),
    **{
        ("long", f"{kind}-{unit}"): _always(partial(_timestamp, per_second, zone))
        for kind, zone in (("timestamp", "Z"), ("local-timestamp", ""))
        for unit, per_second in _PER_SECOND.items()
    },
    ("bytes", "decimal"): _make_decimal,
    ("fixed", "decimal"): _make_decimal,
    ("fixed", "uuid"): _make_uuid,
    ("fixed", "duration"): _make_duration,
}
"""By type and logical type: makes, of a schema, what converts a value of the plain type; None when
the schema does not fit. A uuid in a string is text as it is."""
