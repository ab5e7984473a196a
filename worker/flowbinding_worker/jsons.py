"""JSON, fast: msgspec reads and writes it, and the standard library judges what msgspec refuses.

A message is JSON five times (its value, the request, the answer, the result, the line in the log),
which took an eighth of all that it cost. Whatever msgspec does not take (numbers beyond a double,
half surrogate pairs, NaN, nesting beyond its limit, broken text) is left to `json`, so that values
and texts of errors are always the standard library's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

_COMPACT = (",", ":")
_READER = msgspec.json.Decoder()
_WRITER = msgspec.json.Encoder()
_LINES = msgspec.json.Encoder(enc_hook=str)
_REFUSALS = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)
"""What msgspec raises for what it does not do; UnicodeEncodeError is a ValueError."""


def parse(text: str) -> Any:
    """As `json.loads`: NaN and the infinities are taken, and numbers beyond a double are infinite.

    Raises:
        ValueError: When it is not JSON, or is nested too deeply; says where.
    """
    return _parsed(text, _LENIENT)


def fields(text: str) -> dict[str, Any]:
    """Those of a JSON object; none of anything else, be it JSON or not."""
    try:
        found = parse(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def strict(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity, no numbers beyond a double.

    Raises:
        ValueError: When it is not JSON, or is nested too deeply; says where.
    """
    return _parsed(text, _STRICT)


def dump(value: Any) -> bytes:
    """JSON data as compact JSON in UTF-8; NaN and the infinities, which JSON lacks, become null.

    Callers see to it that it is data: what msgspec knows besides (bytes, times, sets) gets through.

    Raises:
        TypeError: It holds what neither msgspec nor JSON knows.
        ValueError: It is nested too deeply.
    """
    try:
        return _WRITER.encode(value)
    except _REFUSALS:
        # In ASCII: half a surrogate pair has no UTF-8, but JSON can escape it without loss.
        try:
            return json.dumps(_finite(value), separators=_COMPACT).encode()
        except RecursionError:
            raise ValueError("nested too deeply") from None


def dump_finite(value: Any) -> bytes:
    """The same, with NaN and the infinities refused.

    Raises:
        TypeError: As `dump` does.
        ValueError: It is nested too deeply, or holds one of them.
    """
    text = dump(value)
    if b"null" in text:
        json.dumps(value, allow_nan=False)
    return text


def line(event: Any) -> str:
    """An entry of the log, with blanks as `json` has them; what is no JSON data shows as text."""
    try:
        # An indent of 0 is one line with blanks.
        return msgspec.json.format(_LINES.encode(event), indent=0).decode()
    except _REFUSALS:
        return json.dumps(event, default=str, ensure_ascii=False)


def _parsed(text: str, judge: json.JSONDecoder) -> Any:
    try:
        return _READER.decode(text)
    except _REFUSALS:
        pass
    try:
        return judge.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _bounded(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:32]} is too large for a number")
    return number


def _finite(value: Any) -> Any:
    """`value` with NaN and the infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


_LENIENT = json.JSONDecoder()
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_bounded)
