"""How fast messages arrive.

`arrival_rate` is for people: all that arrived over time. `flow_rate` is what capacity is planned
for: what keeps arriving. A burst is no flow: it has come, and counts as backlog until it is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from flowbinding_operator.scaling.sample import Arrived, known

FAST_SECONDS = 30.0
SLOW_SECONDS = 180.0
BIN_SECONDS = 6.0
"""Arrivals are looked at in steps of this length, or of a poll if that is longer."""
SUDDEN_SECONDS = 4.0
"""Steps in which a sudden change is looked for: three of them have to agree."""
RISE = 1.25
FALL = 0.8
SIGMAS = 3.0
"""A change counts when it is beyond these shares and the noise of a Poisson stream."""
BURST = 3.0
"""A bin with so many times the usual (and the noise on top) is a burst beyond that."""


def arrival_rate(samples: Sequence[Arrived]) -> float:
    """Messages per second that arrive: lately, or over a longer time if that is more.

    The short window counts less the noise that a Poisson stream of its rate would have (three
    standard deviations), so that a few messages do not look like a trend.
    """
    return rates_of(samples)[0]


def flow_rate(samples: Sequence[Arrived]) -> float:
    """Messages per second that keep arriving.

    The slow rate is a mean whose bins are cut where they stick out; the fast one the median of the
    last bins. The fast one counts where the two differ by more than noise.
    """
    return rates_of(samples)[1]


def rates_of(samples: Sequence[Arrived]) -> tuple[float, float]:
    """`arrival_rate` and `flow_rate`, for which the samples are gone through once."""
    if _silent(samples):
        return 0.0, 0.0
    totals = _totals(samples)
    return _arrivals(totals), _flow(totals)


def _arrivals(totals: list[tuple[float, int]]) -> float:
    fast, slow = _mean(totals, FAST_SECONDS), _mean(totals, SLOW_SECONDS)
    return max(slow, fast - SIGMAS * math.sqrt(fast / FAST_SECONDS))


def _flow(totals: list[tuple[float, int]]) -> float:
    bins = _bins(totals)
    if not bins:
        return 0.0
    usual = median(rate for rate, _ in bins)
    highest = BURST * usual + SIGMAS * math.sqrt(usual / BIN_SECONDS)
    seconds = sum(width for _, width in bins)
    slow = sum(min(rate, highest) * width for rate, width in bins) / max(seconds, FAST_SECONDS)
    lately = bins[: max(3, round(FAST_SECONDS / BIN_SECONDS))]
    if len(lately) < 3:
        return slow
    fast = max(median(rate for rate, _ in lately), _sudden(totals))
    noise = SIGMAS * math.sqrt(slow / FAST_SECONDS)
    risen, fallen = fast > RISE * slow + noise, fast < FALL * slow - noise
    return fast if risen or fallen else slow


def _sudden(totals: list[tuple[float, int]]) -> float:
    """The lowest rate of the last three short bins: a burst does not fill all of them."""
    rates = [rate for rate, _ in _bins(totals, SUDDEN_SECONDS, 3)]
    return min(rates) if len(rates) == 3 else 0.0


def _silent(samples: Sequence[Arrived]) -> bool:
    """Whether nothing arrived at all, which is so for most bindings most of the time."""
    return not samples or (samples[0].end is not None and samples[0].end == samples[-1].end)


def _totals(samples: Sequence[Arrived]) -> list[tuple[float, int]]:
    """(time, messages arrived), oldest first.

    A topic that was made anew starts at 0 again: that step says nothing.
    """
    totals: list[tuple[float, int]] = []
    total, before = 0, None
    for time, end in known(samples):
        if before is not None and end > before:
            total += end - before
        before = end
        totals.append((time, total))
    return totals


def _mean(totals: list[tuple[float, int]], window: float) -> float:
    if not totals:
        return 0.0
    now, arrived = totals[-1]
    since, before = next(item for item in totals if item[0] >= now - window)
    # A short past must not make a burst look like a high rate.
    return (arrived - before) / max(now - since, FAST_SECONDS)


def _bins(
    totals: list[tuple[float, int]], width: float = BIN_SECONDS, most: int = 1000
) -> list[tuple[float, float]]:
    """(messages per second, seconds) of steps of about `width` seconds, newest first."""
    if not totals:
        return []
    edges = [totals[-1]]
    for item in reversed(totals):
        if edges[-1][0] - item[0] >= width:
            edges.append(item)
            if len(edges) > most:
                break
    return [
        ((later[1] - earlier[1]) / (later[0] - earlier[0]), later[0] - earlier[0])
        for later, earlier in pairwise(edges)
    ]
