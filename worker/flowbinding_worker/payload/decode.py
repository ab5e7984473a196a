"""From a record's bytes to the variables that templates see.

value      what the format makes of the bytes; None for a null value (a tombstone)
text       the bytes as text; "" for a null value, base64 for format Bytes
key        text, or None for a null key; bytes that are not UTF-8 are escaped
headers    dict of text, the last one wins; None for a null header
topic, partition, offset
event      what the envelope says: a CloudEvent's attributes, a report's other members; else None
timestamp  when the message was produced, as ISO 8601 text in UTC with milliseconds
binding    {name, namespace}

A value in Avro is JSON by now: `schemas` has seen to it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flowbinding_api.spec import Format
from flowbinding_worker import jsons
from flowbinding_worker.payload import events
from flowbinding_worker.payload.framing import unframed
from flowbinding_worker.ports import Failure, ProcessingError, Record, Stage
from flowbinding_worker.timestamps import second


def decode(record: Record, format: Format, binding: Mapping[str, str]) -> dict[str, Any]:
    """What a record's templates see, by name.

    Raises:
        ProcessingError: POISON with reason DecodeFailed, when the bytes do not fit the format.
    """
    headers = {name: _lenient(content) for name, content in record.headers}
    value, text, event = _content(record.value, headers, format)
    return {
        "value": value,
        "text": text,
        "event": event,
        "key": key_text(record),
        "headers": headers,
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
    seconds, rest = divmod(max(milliseconds, 0), 1000)
    try:
        return f"{second(seconds)}.{rest:03}Z"
    except OverflowError:
        return f"{second(0)}.000Z"


def _content(
    raw: bytes | None, headers: Mapping[str, str | None], format: Format
) -> tuple[Any, str, Mapping[str, Any] | None]:
    if format is Format.REPORT:
        return _enveloped(events.report, raw)
    names = {name.lower(): content for name, content in headers.items()} if headers else headers
    if format is Format.CLOUD_EVENTS:
        return _enveloped(events.cloud_event, raw, names)
    if format is Format.AUTO and names and events.declared(names):
        # Auto refuses nothing that can be read in another way.
        with suppress(ValueError):
            return events.cloud_event(raw, names)
    return *_value(raw, format), None


def _enveloped(read: Callable[..., events.Content], *given: Any) -> events.Content:
    try:
        return read(*given)
    except ValueError as error:
        raise _failed(str(error)) from None


def _value(raw: bytes | None, format: Format) -> tuple[Any, str]:
    if raw is None:
        return None, ""
    if format is Format.BYTES:
        text = base64.b64encode(raw).decode("ascii")
        return {"base64": text}, text
    if format is Format.JSON_SCHEMA:
        raw = _body(raw)
    try:
        text = events.without_mark(raw).decode()
    except UnicodeDecodeError as error:
        raise _failed(f"the value is not UTF-8 (byte {error.start}); format: {format}") from None
    if format is Format.TEXT:
        return {"message": text}, text
    try:
        return jsons.strict(text), text
    except ValueError as error:
        if format is Format.AUTO:
            return {"message": text}, text
        raise _failed(f"the value is not JSON: {error}") from None


def _body(raw: bytes) -> bytes:
    try:
        return unframed(raw).body
    except ValueError as error:
        raise _failed(f"{error}; format: {Format.JSON_SCHEMA}") from None


def _failed(message: str) -> ProcessingError:
    return ProcessingError(
        message, failure=Failure.POISON, stage=Stage.DECODE, reason="DecodeFailed"
    )


def _lenient(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "backslashreplace")
