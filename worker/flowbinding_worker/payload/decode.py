"""From a record's bytes to the variables that templates see.

value      what the format makes of the bytes; None for a null value (a tombstone)
text       the bytes as text; "" for a null value, base64 for format Bytes
key        text, or None for a null key; bytes that are not UTF-8 are escaped
headers    dict of text, the last one wins; None for a null header
topic, partition, offset
timestamp  when the message was produced, as ISO 8601 text in UTC with milliseconds
binding    {name, namespace}
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flowbinding_api.spec import Format
from flowbinding_worker.ports import Failure, ProcessingError, Record, Stage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decode(record: Record, format: Format, binding: Mapping[str, str]) -> dict[str, Any]:
    """What a record's templates see, by name.

    Raises:
        ProcessingError: POISON with reason DecodeFailed, when the bytes do not fit the format.
    """
    value, text = _value(record.value, format)
    return {
        "value": value,
        "text": text,
        "key": key_text(record),
        "headers": {name: _lenient(content) for name, content in record.headers},
        "topic": record.partition.topic,
        "partition": record.partition.partition,
        "offset": record.offset,
        "timestamp": iso_timestamp(record.timestamp_ms),
        "binding": binding,
    }


def key_text(record: Record) -> str | None:
    """The key as text; distinct keys stay distinct even when they are not UTF-8."""
    return _lenient(record.key)


def iso_timestamp(milliseconds: int) -> str:
    """Kafka's milliseconds since the epoch, e.g. `2026-11-21T10:39:18.250Z`.

    A record without a timestamp has -1; it and anything beyond the calendar become the epoch.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=max(milliseconds, 0))
    except OverflowError:
        moment = _EPOCH
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def strict_json(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity, no numbers beyond a double.

    Raises:
        ValueError: When it is not JSON, or is nested too deeply.
    """
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _value(raw: bytes | None, format: Format) -> tuple[Any, str]:
    if raw is None:
        return None, ""
    if format is Format.BYTES:
        text = base64.b64encode(raw).decode("ascii")
        return {"base64": text}, text
    try:
        # A byte order mark is no part of the text.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _failed(f"the value is not UTF-8 (byte {error.start}); format: {format}") from None
    if format is Format.TEXT:
        return {"message": text}, text
    try:
        return strict_json(text), text
    except ValueError as error:
        if format is Format.AUTO:
            return {"message": text}, text
        raise _failed(f"the value is not JSON: {error}") from None


def _failed(message: str) -> ProcessingError:
    return ProcessingError(
        message, failure=Failure.POISON, stage=Stage.DECODE, reason="DecodeFailed"
    )


def _lenient(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:32]} is too large for a number")
    return number


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
