"""What travels between a worker and the processes of a Local flow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_worker.flows.processes import frames
from flowbinding_worker.flows.processes.fork import ended_how
from flowbinding_worker.flows.processes.frames import frame, read_frame


async def test_frames_end_with_the_connection() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(frame({"a": 1}) + frame({"b": 2})[:-1])
    reader.feed_eof()
    assert await read_frame(reader) == {"a": 1}
    assert await read_frame(reader) is None


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000])
async def test_frames_that_are_no_messages(body: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(len(body).to_bytes(4, "big") + body)
    with pytest.raises((ValueError, RecursionError)):
        await read_frame(reader)


async def test_frames_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_BYTES", 100)
    reader = asyncio.StreamReader()
    reader.feed_data((101).to_bytes(4, "big"))
    with pytest.raises(ValueError, match="longer than"):
        await read_frame(reader)
    with pytest.raises(ValueError, match="longer than"):
        frame({"a": "x" * 100})


_JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(), _JSON | st.lists(_JSON), max_size=3), max_size=3))
def test_frames_arrive_as_they_were_sent(messages: list[dict[str, Any]]) -> None:
    async def read() -> list[dict[str, Any] | None]:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(map(frame, messages)))
        reader.feed_eof()
        return [await read_frame(reader) for _ in messages]

    assert asyncio.run(read()) == messages


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (0, "ended with exit code 0"),
        (-9, "was killed by SIGKILL (out of memory, or killed from outside)"),
        (-11, "was killed by SIGSEGV"),
        (-200, "was killed by signal 200"),
        (None, "ended"),
    ],
)
def test_the_end_of_a_process_in_words(status: int | None, how: str) -> None:
    assert ended_how(status) == how
