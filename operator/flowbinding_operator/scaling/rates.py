"""How fast messages arrive.

`arrival_rate` is for people: all that arrived over time. `flow_rate` is what capacity is planned
for: what keeps arriving. A burst is no flow: it has come, and counts as backlog until it is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from flowbinding_operator.scaling.sample import Sample

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


def arrival_rate(samples: Sequence[Sample]) -> float:
    """Messages per second that arrive: lately, or over a longer time if that is more.

    The short window counts less the noise that a Poisson stream of its rate would have (three
    standard deviations), so that a few messages do not look like a trend.
    """
    return rates_of(samples)[0]


def flow_rate(samples: Sequence[Sample]) -> float:
    """Messages per second that keep arriving.

    The slow rate is a mean whose bins are cut where they stick out; the fast one the median of the
    last bins. The fast one counts where the two differ by more than noise.
    """
    return rates_of(samples)[1]


def rates_of(samples: Sequence[Sample]) -> tuple[float, float]:
    """`arrival_rate` and `flow_rate`, for which the samples are gone through once."""
    if _silent(samples):
        return 0.0, 0.0
    known = _known(samples)
    return _arrivals(known), _flow(known)


def _arrivals(known: list[tuple[float, int]]) -> float:
    fast, slow = _mean(known, FAST_SECONDS), _mean(known, SLOW_SECONDS)
    return max(slow, fast - SIGMAS * math.sqrt(fast / FAST_SECONDS))


def _flow(known: list[tuple[float, int]]) -> float:
    bins = _bins(known)
    if not bins:
        return 0.0
    usual = median(rate for rate, _ in bins)
    highest = BURST * usual + SIGMAS * math.sqrt(usual / BIN_SECONDS)
    seconds = sum(width for _, width in bins)
    slow = sum(min(rate, highest) * width for rate, width in bins) / max(seconds, FAST_SECONDS)
    lately = bins[: max(3, round(FAST_SECONDS / BIN_SECONDS))]
    if len(lately) < 3:
        return slow
    fast = max(median(rate for rate, _ in lately), _sudden(known))
    noise = SIGMAS * math.sqrt(slow / FAST_SECONDS)
    risen, fallen = fast > RISE * slow + noise, fast < FALL * slow - noise
    return fast if risen or fallen else slow


def _sudden(known: list[tuple[float, int]]) -> float:
    """The lowest rate of the last three short bins: a burst does not fill all of them."""
    rates = [rate for rate, _ in _bins(known, SUDDEN_SECONDS, 3)]
    return min(rates) if len(rates) == 3 else 0.0


def _silent(samples: Sequence[Sample]) -> bool:
    """Whether nothing arrived at all, which is so for most bindings most of the time."""
    return not samples or (samples[0].end is not None and samples[0].end == samples[-1].end)


def _known(samples: Sequence[Sample]) -> list[tuple[float, int]]:
    """(time, messages arrived), oldest first.

    A topic that was made anew starts at 0 again: that step says nothing.
    """
    known: list[tuple[float, int]] = []
    total = 0
    before: int | None = None
    for sample in samples:
        if sample.end is None:
            continue
        total += 0 if before is None else max(0, sample.end - before)
        before = sample.end
        known.append((sample.time, total))
    return known


def _mean(known: list[tuple[float, int]], window: float) -> float:
    if not known:
        return 0.0
    now, arrived = known[-1]
    since, before = next(item for item in known if item[0] >= now - window)
    # A short past must not make a burst look like a high rate.
    return (arrived - before) / max(now - since, FAST_SECONDS)


def _bins(
    known: list[tuple[float, int]], width: float = BIN_SECONDS, most: int = 1000
) -> list[tuple[float, float]]:
    """(messages per second, seconds) of steps of about `width` seconds, newest first."""
    if not known:
        return []
    edges = [known[-1]]
    for item in reversed(known):
        if edges[-1][0] - item[0] >= width:
            edges.append(item)
            if len(edges) > most:
                break
    return [
        ((later[1] - earlier[1]) / (later[0] - earlier[0]), later[0] - earlier[0])
        for later, earlier in pairwise(edges)
    ]
