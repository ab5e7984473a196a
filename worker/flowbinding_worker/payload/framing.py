"""What serializers for a schema registry write before a value (Confluent's wire format).

A zero byte, the schema's number in four bytes (big-endian), and the value.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEAD = struct.Struct(">bi")


class Framed(NamedTuple):
    """A value with its schema's number.

    Attributes:
        schema: The number.
        body: The value's bytes.
    """

    schema: int
    body: bytes


def unframed(raw: bytes) -> Framed:
    """Take a record's value apart.

    Raises:
        ValueError: When it has no number before it.
    """
    if len(raw) < _HEAD.size or raw[0] != 0:
        raise ValueError(
            "the value does not begin with a zero byte and the number of a schema, as serializers"
            " for a schema registry write them"
        )
    _, number = _HEAD.unpack_from(raw)
    if number < 0:
        raise ValueError(f"the value names schema {number}")
    return Framed(number, raw[_HEAD.size :])
