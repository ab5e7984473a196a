"""Messages in envelopes: CloudEvents and reports.

CloudEvents 1.0 in the two modes of its Kafka binding: structured (one JSON document, content type
`application/cloudevents+json`) and binary (attributes as `ce_...` headers, the value is the data).
A report is `{timestamp, source, topic, report}`, as the envelope Report writes it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from flowbinding_worker import jsons

STRUCTURED = "application/cloudevents+json"
_REQUIRED = ("id", "source", "type")
_PREFIX = "ce_"


class Content(NamedTuple):
    """What a message says.

    Attributes:
        value: For templates.
        text: The same as text.
        event: What the envelope says of it; None without one.
    """

    value: Any
    text: str
    event: Mapping[str, Any] | None = None


_TOMBSTONE = Content(None, "")


def declared(headers: Mapping[str, str | None]) -> bool:
    """Whether a message's headers, their names in lower case, say that it is a CloudEvent."""
    return f"{_PREFIX}specversion" in headers or _media_type(headers) == STRUCTURED


def cloud_event(raw: bytes | None, headers: Mapping[str, str | None]) -> Content:
    """The data and the attributes of a CloudEvent.

    Args:
        raw: The record's value.
        headers: The record's headers, their names in lower case.

    Raises:
        ValueError: When it is none.
    """
    if f"{_PREFIX}specversion" in headers:
        return _binary(raw, headers)
    media_type = _media_type(headers)
    if media_type.startswith("application/cloudevents") and media_type != STRUCTURED:
        raise ValueError(f"the content type is {media_type}; CloudEvents are read as {STRUCTURED}")
    return _TOMBSTONE if raw is None else _structured(raw)


def report(raw: bytes | None) -> Content:
    """The report in an envelope, and what the envelope says of it.

    Raises:
        ValueError: When there is none.
    """
    if raw is None:
        return _TOMBSTONE
    envelope = _object(raw)
    if "report" not in envelope:
        raise ValueError("the object has no member 'report'")
    value = envelope.pop("report")
    return Content(value, _as_text(value), envelope)


def without_mark(raw: bytes) -> bytes:
    """UTF-8 without its byte order mark, which is no part of the text."""
    # The codec utf-8-sig is written in Python, and takes five times as long.
    return raw.removeprefix(codecs.BOM_UTF8)


def _structured(raw: bytes) -> Content:
    event = _object(raw)
    data, encoded = event.pop("data", None), event.pop("data_base64", None)
    _check(event)
    media_type = _base_type(event.get("datacontenttype") or "application/json")
    if encoded is not None:
        value, text = _content(_bytes(encoded), media_type)
    elif isinstance(data, str) and not _is_json(media_type):
        value, text = {"message": data}, data
    else:
        value, text = data, _as_text(data)
    return Content(value, text, event)


def _binary(raw: bytes | None, headers: Mapping[str, str | None]) -> Content:
    event: dict[str, Any] = {
        name.removeprefix(_PREFIX): content
        for name, content in headers.items()
        if name.startswith(_PREFIX)
    }
    _check(event)
    if headers.get("content-type"):
        event["datacontenttype"] = headers["content-type"]
    value, text = _content(raw, _media_type(headers))
    return Content(value, text, event)


def _check(event: Mapping[str, Any]) -> None:
    version = event.get("specversion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ValueError("the CloudEvent has no specversion 1.x")
    missing = [
        name for name in _REQUIRED if not isinstance(event.get(name), str) or not event[name]
    ]
    if missing:
        raise ValueError(f"the CloudEvent has no {' and no '.join(missing)}")


def _content(raw: bytes | None, media_type: str) -> tuple[Any, str]:
    """Data by its content type; without one, JSON where it parses, else text."""
    if raw is None:
        return None, ""
    textual = not media_type or _is_json(media_type) or media_type.startswith("text/")
    if not textual:
        text = base64.b64encode(raw).decode("ascii")
        return {"base64": text}, text
    text = _utf8(raw)
    if media_type.startswith("text/") and not _is_json(media_type):
        return {"message": text}, text
    try:
        return jsons.strict(text), text
    except ValueError as error:
        if not media_type:
            return {"message": text}, text
        raise ValueError(f"the CloudEvent's data is not JSON: {error}") from None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = jsons.strict(_utf8(raw))
    except ValueError as error:
        raise ValueError(f"the value is not JSON: {error}") from None
    if isinstance(value, dict):
        return value
    raise ValueError("the value is no JSON object")


def _utf8(raw: bytes) -> str:
    try:
        return without_mark(raw).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None


def _bytes(encoded: Any) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("the CloudEvent's data_base64 is no base64") from None


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _media_type(headers: Mapping[str, str | None]) -> str:
    return _base_type(headers.get("content-type") or "")


def _base_type(content_type: object) -> str:
    return str(content_type).partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type.endswith(("/json", "+json"))
