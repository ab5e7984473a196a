"""The operator's own policy, and models of its peers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from flowbinding_api.binding import parse_binding
from flowbinding_operator.scaling import Decision, History, Sample, decide
from scaling.view import View
from scaling.workloads import Setting

DAWN = 1_800_000_000.0
"""Seconds since the epoch at which a run begins."""


class FlowBinding:
    """The operator's code as it is, at its usual interval."""

    def __init__(self, setting: Setting, period: float = 2.0, **scaling: Any) -> None:
        self.period, self.slots = period, float(setting.slots)
        self.spec = parse_binding(
            {
                "apiVersion": "flowbinding.io/v1alpha1",
                "kind": "FlowBinding",
                "metadata": {"name": "simulated"},
                "spec": {
                    "source": {"topic": "in"},
                    "flow": {"backend": "Echo"},
                    "concurrency": {
                        "perReplica": setting.slots,
                        "ordering": setting.ordering.value,
                    },
                    "scaling": {"maxReplicas": 1000, **setting.scaling, **scaling},
                },
            }
        ).spec
        # What the status has kept of the time before.
        before = setting.mean if setting.known else None
        self.history = History(replicas=0, seconds_per_message=before)
        self.said: dict[str, int] = {}
        self.last: Decision | None = None

    def step(self, view: View) -> int | None:
        known = view.known
        self.history.observe(
            Sample(
                time=view.time,
                lag=view.lag if known else None,
                end=sum(view.ends) if known else None,
                partitions=len(view.ends) if known else None,
                seconds_per_message=view.seconds if known else None,
                unix=DAWN + view.time,
                ends=view.ends if known else (),
                done=view.done if known else (),
                workers=view.ready,
                slots=self.slots,
            )
        )
        decision = decide(self.history, self.spec)
        self.history.remember(decision, self.spec.scaling.behavior)
        self.history.replicas = decision.replicas
        self.last = decision
        if decision.limited is not None:
            self.said[decision.limited] = self.said.get(decision.limited, 0) + round(self.period)
        return decision.replicas


class Keda:
    """KEDA 2.20 with the HorizontalPodAutoscaler that it makes.

    KEDA makes no `behavior`, so the HPA's old limits hold: up to max(4, 2 * current) at each of its
    looks, every 15 s; down after 300 s to the highest recommendation in them. From and to zero KEDA
    acts by itself, every 30 s.

    Args:
        threshold: lagThreshold.
        even: ensureEvenDistributionOfPartitions.
        polled: When KEDA looks first.
        synced: When the HPA looks first.
    """

    period = 0.5

    def __init__(
        self, threshold: int = 10, *, even: bool = False, polled: float = 13.0, synced: float = 7.0
    ) -> None:
        self.threshold, self.even = threshold, even
        self._poll, self._sync = polled, synced
        self._active_at: float | None = None
        self._recommended: deque[tuple[float, int]] = deque()

    def step(self, view: View) -> int | None:
        wanted: int | None = None
        if view.time >= self._poll:
            self._poll += 30
            wanted = self._activate(view)
        if view.time >= self._sync:
            self._sync += 15
            if view.desired > 0 and view.known and wanted is None:
                wanted = self._hpa(view)
        return wanted

    def _activate(self, view: View) -> int | None:
        if not view.known:
            return None
        if view.lag > 0:
            self._active_at = view.time
            return 1 if view.desired == 0 else None
        quiet = self._active_at is None or view.time - self._active_at > 300
        return 0 if quiet and view.desired > 0 else None

    def metric(self, view: View) -> int:
        """The lag as the scaler reports it, with its bounds."""
        lag, t, partitions = view.lag, self.threshold, len(view.ends)
        if self.even:
            counts = [n for n in range(1, partitions + 1) if partitions % n == 0]
            lag = next((n for n in counts if n * t >= lag), partitions) * t
        # An integer division: between P * T and (P + 1) * T it lets one more through.
        return partitions * t if lag // t > partitions else lag

    def _hpa(self, view: View) -> int:
        current, metric = view.desired, self.metric(view)
        ratio = metric / (self.threshold * current)
        wanted = current if abs(1 - ratio) <= 0.1 else math.ceil(metric / self.threshold)
        self._recommended.append((view.time, wanted))
        while self._recommended[0][0] < view.time - 300:
            self._recommended.popleft()
        if wanted < current:
            wanted = min(current, max(number for _, number in self._recommended))
        return max(1, min(wanted, max(4, 2 * current)))


class Numaflow:
    """Numaflow's MonoVertex: pending over rate, no arrival term, two replicas in 90 s."""

    period = 30.0

    def __init__(self, seconds: float = 20.0, lookback: float = 120.0, step: int = 2) -> None:
        self.seconds, self.lookback, self.most = seconds, lookback, step
        self._seen: deque[tuple[float, int, int]] = deque()
        self._scaled = -90.0
        self._slept: float | None = None

    def step(self, view: View) -> int | None:
        if not view.known:
            return None
        self._seen.append((view.time, view.lag, view.completed))
        while self._seen[0][0] < view.time - self.lookback:
            self._seen.popleft()
        if view.desired == 0:
            # At zero it does not look at the lag: one Pod peeks every two minutes.
            self._slept = view.time if self._slept is None else self._slept
            if view.time - self._slept < 120:
                return None
            self._slept = None
            return self._to(1, view)
        if view.ready < view.desired or view.time - self._scaled < 90:
            return None
        wanted = self._wanted(view)
        if wanted is None or wanted == view.desired:
            return None
        wanted = max(view.desired - self.most, min(view.desired + self.most, wanted))
        return self._to(max(0, min(wanted, len(view.ends), 50)), view)

    def _wanted(self, view: View) -> int | None:
        span = self._seen[-1][0] - self._seen[0][0]
        rate = (self._seen[-1][2] - self._seen[0][2]) / span if span else 0.0
        pending = sum(lag for _, lag, _ in self._seen) / len(self._seen)
        if pending < 1 and rate == 0:
            return 0
        if rate == 0:
            return None
        return max(1, min(round(pending / rate / self.seconds * view.ready), math.ceil(pending)))

    def _to(self, wanted: int, view: View) -> int:
        self._scaled = view.time
        return wanted


class Flink:
    """Flink's autoscaler (DS2), its own defaults or shorter windows. No scale to zero."""

    def __init__(
        self,
        setting: Setting,
        *,
        window: float = 900.0,
        stabilization: float = 300.0,
        catch_up: float = 1800.0,
        restart: float = 300.0,
        down_interval: float = 3600.0,
        period: float = 15.0,
    ) -> None:
        self.period, self.window, self.stabilization = period, window, stabilization
        self.catch_up, self.restart, self.down_interval = catch_up, restart, down_interval
        self.slots = setting.slots
        self._seen: deque[tuple[float, int, int, float]] = deque()
        self._from = 0.0
        self._down: list[tuple[float, int]] = []

    def step(self, view: View) -> int | None:
        if view.desired == 0:
            self._from = view.time + self.stabilization
            return 1
        if not view.known or view.ready < view.desired or view.time < self._from:
            return None
        self._seen.append((view.time, sum(view.ends), view.completed, view.busy))
        while self._seen[0][0] < view.time - self.window:
            self._seen.popleft()
        if self._seen[-1][0] - self._seen[0][0] < 0.95 * self.window:
            return None
        return self._decide(view)

    def _decide(self, view: View) -> int | None:
        first, last = self._seen[0], self._seen[-1]
        span = last[0] - first[0]
        arrivals, done = (last[1] - first[1]) / span, (last[2] - first[2]) / span
        busy = sum(item[3] for item in self._seen) / len(self._seen)
        able = done / max(busy, 0.02)
        partitions = len(view.ends)

        def target(use: float, *, restart: bool = True) -> float:
            extra = arrivals * self.restart / self.catch_up if restart else 0.0
            return view.lag / self.catch_up + extra + arrivals / use

        backlogged = view.lag > 300 * arrivals
        low, high = target(1.0, restart=False), target(0.4)
        if low <= able and (backlogged or able <= high):
            self._down.clear()
            return None
        wanted = math.ceil(max(0.4, target(0.7) / max(able, 1e-9)) * view.desired)
        wanted = _evenly(max(1, min(wanted, partitions)), partitions)
        if wanted < view.desired:
            self._down.append((view.time, wanted))
            if view.time - self._down[0][0] < self.down_interval:
                return None
            wanted = max(number for _, number in self._down)
        self._down.clear()
        if wanted == view.desired:
            return None
        self._seen.clear()
        self._from = view.time + self.stabilization
        return wanted


def _evenly(wanted: int, partitions: int) -> int:
    for count in range(wanted, partitions + 1):
        if partitions % count == 0 or partitions // count < partitions // wanted:
            return count
    return wanted


class Static:
    """As many workers as the highest load takes, always."""

    period = 60.0

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def step(self, view: View) -> int | None:
        return self.replicas if view.desired != self.replicas else None


def peak(setting: Setting, times: Sequence[float]) -> int:
    """Workers for the highest rate of any minute, with a tenth to spare."""
    counts = [0] * (setting.seconds // 60 + 2)
    for time in times:
        counts[int(time // 60)] += 1
    highest = max(counts) / 60 / 0.9
    partitions = setting.grown[1] if setting.grown else setting.partitions
    each = max(1, math.floor(partitions * setting.worker_rate / max(highest, 1e-9)))
    return math.ceil(partitions / min(each, partitions))
