"""Frames between a worker and the processes of its flow: four bytes of length, then JSON."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 64 * 1024 * 1024
"""Of a message: as much as an answer over HTTP may have. The worker outlives its processes."""

_LENGTH = struct.Struct(">I")
_TOO_LONG = f"longer than {MAX_BYTES // 1024 // 1024} MiB"


def frame(message: Mapping[str, Any]) -> bytes:
    """A message as bytes.

    Raises:
        ValueError: It refers to itself, or is too long.
        TypeError: It holds something that JSON does not know.
        RecursionError: It is nested too deeply.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_BYTES:
        raise ValueError(_TOO_LONG)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side is gone.

    Raises:
        ValueError: It is no message.
        RecursionError: It is nested too deeply.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_BYTES:
            raise ValueError(_TOO_LONG)
        body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a frame is an object")  # noqa: TRY004 - it came over the wire
    return message
