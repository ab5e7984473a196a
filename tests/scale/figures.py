"""Figures from metrics: sums, quantiles, and growth with how sure it is. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
BLOCKS = 12
STUDENT = 2.228
"""Student's t for 95 % on both sides, with BLOCKS - 2 degrees of freedom."""


@dataclass(frozen=True)
class Series:
    """One line of Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """All series of a program at one time."""

    series: list[Series] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, *names: str) -> Self:
        """Read Prometheus' text format; only what begins with one of `names`, if any are given."""
        found = []
        for line in text.splitlines():
            if names and not line.startswith(names):
                continue
            if match := LINE.match(line):
                labels = dict(LABEL.findall(match[2] or ""))
                found.append(Series(match[1], labels, float(match[3])))
        return cls(found)

    def sum(self, name: str, **labels: str | Iterable[str]) -> float:
        """Sum of the series with these labels; of several values, any may hold."""
        wanted = {
            key: {value} if isinstance(value, str) else set(value) for key, value in labels.items()
        }
        return math.fsum(
            item.value
            for item in self.series
            if item.name == name
            and all(item.labels.get(key, "") in values for key, values in wanted.items())
        )

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """A histogram's (upper bound, count so far), in order."""
        found = [
            (float(item.labels["le"]), item.value)
            for item in self.series
            if item.name == f"{name}_bucket"
        ]
        return sorted(found)


def quantile(before: Scrape, after: Scrape, name: str, share: float) -> float | None:
    """The bound of the bucket in which a quantile lies, of what came between two scrapes.

    An upper bound, so that nothing looks better than it is. None when nothing came.
    """
    earlier = dict(before.buckets(name))
    counts = [(bound, count - earlier.get(bound, 0.0)) for bound, count in after.buckets(name)]
    total = counts[-1][1] if counts else 0.0
    if total <= 0:
        return None
    return next(bound for bound, count in counts if count >= share * total)


@dataclass(frozen=True)
class Growth:
    """A slope, and between which it is with 95 % certainty.

    Attributes:
        slope: What is gained in a second.
        low: The least that fits the samples.
        high: The most.
    """

    slope: float
    low: float
    high: float


def growth(samples: Sequence[tuple[float, float]]) -> Growth | None:
    """How fast something grows: a line through the means of equal blocks of time.

    Neighbouring samples of memory tell much the same, so a line through all of them would look far
    too sure of itself; means of blocks are about independent. None with too few samples.
    """
    if len(samples) < 2 * BLOCKS:
        return None
    size = len(samples) / BLOCKS
    blocks = [samples[round(i * size) : round((i + 1) * size)] for i in range(BLOCKS)]
    times = [math.fsum(t for t, _ in block) / len(block) for block in blocks]
    values = [math.fsum(v for _, v in block) / len(block) for block in blocks]
    middle, mean = math.fsum(times) / BLOCKS, math.fsum(values) / BLOCKS
    spread = math.fsum((t - middle) ** 2 for t in times)
    if spread == 0:
        return None
    pairs = list(zip(times, values, strict=True))
    slope = math.fsum((t - middle) * (v - mean) for t, v in pairs) / spread
    off = math.fsum((v - mean - slope * (t - middle)) ** 2 for t, v in pairs)
    error = STUDENT * math.sqrt(off / (BLOCKS - 2) / spread)
    return Growth(slope, slope - error, slope + error)
