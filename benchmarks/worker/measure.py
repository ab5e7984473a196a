"""From times of completions to a rate, and from samples to a cost. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the process under test.

    Attributes:
        at: Seconds since the epoch.
        done: Results in the output topic.
        cpu: CPU seconds that the process has used, children not included.
        rss: Resident memory in bytes.
    """

    at: float
    done: int
    cpu: float
    rss: int


def steady_rate(times: Sequence[float], ramp: float, window: float, wave: int) -> float:
    """Completions per second in steady state.

    While calls take equally long, completions come in waves of as many as there are slots; so the
    span measured begins and ends with a wave, wherever it contains one: half a wave more or less
    would be several per cent.

    Args:
        times: Of all completions, in seconds, in order.
        ramp: Seconds to leave out after the first completion.
        window: Seconds to look at after that.
        wave: Completions in a wave.

    Raises:
        ValueError: When fewer than two completions are in the window.
    """
    begin = bisect_left(times, times[0] + ramp) if times else 0
    begin = min(-(-begin // wave) * wave, max(0, len(times) - 1))
    end = bisect_left(times, times[begin] + window) - 1 if times else 0
    waves = (end - begin) // wave * wave
    last = begin + waves if waves else end
    if last <= begin or times[last] <= times[begin]:
        raise ValueError("too few completions to measure a rate")
    return (last - begin) / (times[last] - times[begin])


def cpu_per_message(samples: Sequence[Sample], begin: float, end: float) -> float:
    """CPU seconds of a completion between two moments.

    Raises:
        ValueError: When nothing was completed between them.
    """
    inside = [s for s in samples if begin <= s.at <= end]
    if len(inside) < 2 or inside[-1].done <= inside[0].done:
        raise ValueError("too few samples to measure CPU time")
    return (inside[-1].cpu - inside[0].cpu) / (inside[-1].done - inside[0].done)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
