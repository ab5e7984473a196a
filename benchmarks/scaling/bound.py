"""What a policy that knows the future would pay: the least Pod-seconds without a message too old.

Dynamic programming over (bin of 10 s, workers, backlog), in a fluid model: partitions are equally
busy, so N workers do P / ceil(P / N) times what one does; messages are served in the order of their
arrival, so none is older than the SLO while the backlog is no more than what arrived within it.
Pods are ordered ahead, so starting costs Pod-seconds but no time; a partition that moves is not
worked on for the pause. A backlog is rounded down: where the model errs, the bound is too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scaling.workloads import Setting

BIN_SECONDS = 10
UNIT = 0.5
"""Messages that a step of the backlog stands for."""

Costs = NDArray[np.float64]


def useful(partitions: int) -> list[int]:
    """Counts of workers of which none is as good as a lower one, and zero."""
    return sorted({0, *(math.ceil(partitions / each) for each in range(1, partitions + 1))})


def settled(setting: Setting) -> tuple[float, int]:
    """Pod-seconds and changes of the least number that keeps up with the true rate at every moment.

    A constant rate that is let to settle costs no less, whatever the policy: numbers in between
    are no faster. Not for settings that change partitions or backend.
    """
    numbers = [_least_for(setting, setting.rate(second)) for second in range(setting.seconds)]
    return float(sum(numbers)), sum(a != b for a, b in pairwise([0, *numbers]))


def _least_for(setting: Setting, rate: float) -> int:
    if rate <= 0:
        return 0
    # Less than all it can do: at that, a queue never ends.
    each = math.ceil(setting.partitions * setting.worker_rate / rate) - 1
    return math.ceil(setting.partitions / max(1, min(each, setting.partitions)))


def clairvoyant(setting: Setting, times: Sequence[float]) -> float | None:
    """Pod-seconds; None where the model does not fit: one partition unlike the others, or a
    backend or a topic that changes.
    """
    changing = (setting.grown, setting.slow, setting.outage, setting.poison_at)
    if setting.hot or setting.keys or any(changing) or math.isfinite(setting.capacity):
        return None
    arrived = np.zeros(setting.seconds // BIN_SECONDS + 1, dtype=np.int64)
    np.add.at(arrived, (np.asarray(times) // BIN_SECONDS).astype(np.int64), 1)
    bins = round(setting.slo / BIN_SECONDS)
    recent = np.convolve(arrived, np.ones(bins, dtype=np.int64))[: len(arrived)]
    return _least(setting, arrived, recent)


def _least(setting: Setting, arrived: NDArray[np.int64], recent: NDArray[np.int64]) -> float:
    count = setting.partitions
    levels = useful(count)
    rates = [setting.worker_rate * count / math.ceil(count / n) if n else 0.0 for n in levels]
    size = int(recent.max() / UNIT) + 2
    costs: list[Costs] = [np.full(size, np.inf) for _ in levels]
    costs[0][0] = 0.0
    start = setting.start * math.exp(0.3**2 / 2)
    for new, most in zip(arrived, recent, strict=True):
        following: list[Costs] = [np.full(size, np.inf) for _ in levels]
        for target, rate in enumerate(rates):
            for source, before in enumerate(costs):
                low, high = sorted((levels[source], levels[target]))
                share = (high - low) / high if high else 0.0
                lost = share * setting.pause * rate
                paid = levels[target] * BIN_SECONDS + start * max(
                    0, levels[target] - levels[source]
                )
                shift = math.floor((int(new) - rate * BIN_SECONDS + lost) / UNIT)
                following[target] = np.minimum(following[target], _shifted(before, shift) + paid)
            following[target][int(most / UNIT) + 1 :] = np.inf
        costs = following
    return float(min(cost.min() for cost in costs))


def _shifted(costs: Costs, by: int) -> Costs:
    """Costs by backlog, when each backlog grows by so many units, and none falls below zero."""
    result = np.full_like(costs, np.inf)
    if by >= 0:
        result[by:] = costs[: max(0, len(costs) - by)]
        return result
    left = costs[-by:]
    result[: len(left)] = left
    result[0] = costs[: 1 - by].min()
    return result
