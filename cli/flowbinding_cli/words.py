"""Numbers in words: the right unit, the right plural, no more digits than say something."""

from __future__ import annotations


def rate(value: float | None) -> str:
    """Messages a second."""
    return "?" if value is None else f"{figure(value)}/s"


def figure(value: float) -> str:
    """Three digits, and never an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else "less than 0.001"


def duration(seconds: float) -> str:
    """Seconds, or milliseconds when it is short."""
    return f"{figure(seconds * 1000)} ms" if seconds < 0.1 else f"{figure(seconds)} s"


def count(value: int | None) -> str:
    """A number of things; `?` while it is unknown."""
    return "?" if value is None else f"{value:,}"


def workers(number: int | None) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count(number)} worker{'' if number == 1 else 's'}"


def partitions(number: int | None) -> str:
    """`1 partition`, `2 partitions`."""
    return f"{count(number)} partition{'' if number == 1 else 's'}"


def slots(number: int) -> str:
    """`1 slot`, `2 slots`."""
    return f"{number} slot{'' if number == 1 else 's'}"


def messages(number: int | None) -> str:
    """`1 message`, `2 messages`."""
    return f"{count(number)} message{'' if number == 1 else 's'}"
