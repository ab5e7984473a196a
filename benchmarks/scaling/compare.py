"""Every policy on every workload, several times."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from scaling.bound import clairvoyant, settled
from scaling.policies import Flink, FlowBinding, Keda, Numaflow, Static, peak
from scaling.view import Policy
from scaling.workloads import Message, Setting, messages, settings
from scaling.world import World

OURS, KEDA = "FlowBinding", "KEDA T=10"
MAIN = ("step", "ramp", "diurnal", "noise")
FEW = 3
"""Seeds for all but what is aimed at: the main workloads, and FlowBinding and KEDA in them."""
FIRST_SEED = 1000
"""What is reported; the policy was tuned on seeds from 0 on."""

Make = Callable[[Setting, Sequence[Message]], Policy]


def _keda(dice: random.Random, threshold: int, *, even: bool = False) -> Make:
    polled, synced = dice.uniform(0, 30), dice.uniform(0, 15)
    return lambda _setting, _messages: Keda(threshold, even=even, polled=polled, synced=synced)


def policies(seed: int, *, full: bool) -> dict[str, Make]:
    """Policies by name. When KEDA and the HPA look first follows from the seed."""
    dice = random.Random(f"looks-{seed}")
    found: dict[str, Make] = {
        OURS: lambda setting, _: FlowBinding(setting),
        KEDA: _keda(dice, 10),
        "KEDA T=40": _keda(dice, 40),
        "Numaflow": lambda _setting, _messages: Numaflow(),
        "Flink": lambda setting, _: Flink(setting),
        "Flink, short windows": lambda setting, _: Flink(
            setting, window=60, stabilization=30, catch_up=60, restart=15, down_interval=120
        ),
        "static peak": lambda setting, all_: Static(peak(setting, [m.time for m in all_])),
    }
    if full:
        found |= {f"KEDA T={t}": _keda(dice, t) for t in (5, 20, 80, 120)}
        found |= {f"KEDA T={t}, even": _keda(dice, t, even=True) for t in (10, 40)}
    return found


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the seeds.

    Attributes:
        cost: Pod-seconds over those of the bound, or over the work where there is no bound.
        late: Seconds with a message older than the SLO.
        worst: The most of them of any seed.
        events: Changes of the wanted number.
        flaps: Changes of direction within ten minutes.
        oldest: The highest age of a message, in seconds.
        waited: The longest that any message of any seed waited for its run to begin.
        limits: What the policy said that limits it, by seconds.
    """

    cost: float
    late: float
    worst: float
    events: float
    flaps: float
    moved: float
    oldest: float
    waited: float
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A workload.

    Attributes:
        bound: Pod-seconds of the clairvoyant bound over the work; None where it does not apply.
        settled: Pod-seconds over the bound's of who knows the rate and always runs the least number
            that keeps up with it, without a start-up, noise or a window.
        steps: Changes of that number.
    """

    workload: str
    bound: float | None
    settled: float | None
    steps: float | None
    scores: Mapping[str, Score]


Least = tuple[float, float, int]
"""A bound over the work; cost of the settled number over the bound, and its changes."""
Run = tuple[str, Least | None, dict[str, Score]]


def compare(names: Iterable[str] | None, seeds: int, *, full: bool) -> list[Row]:
    """Run it all, on all processors."""
    wanted = [s.name for s in settings() if names is None or s.name in names]
    jobs = [
        (name, FIRST_SEED + number, full)
        for name in wanted
        for number in range(seeds if is_main(name) else min(seeds, FEW))
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(_run, jobs))
    return [_row(name, [run for run in runs if run[0] == name]) for name in wanted]


def is_main(name: str) -> bool:
    """Whether a workload is one of those that something is aimed at for."""
    return name.removesuffix(", short runs").removesuffix(", any") in MAIN


def _run(job: tuple[str, int, bool]) -> Run:
    name, seed, full = job
    setting = next(s for s in settings(seed) if s.name == name)
    arriving = messages(setting, seed)
    work = sum(m.work for m in arriving if not m.poison) / setting.slots
    bound = clairvoyant(setting, [m.time for m in arriving])
    scores = {}
    for label, make in policies(seed, full=full).items():
        if seed >= FIRST_SEED + FEW and label not in {OURS, KEDA}:
            continue
        policy = make(setting, arriving)
        result = World(setting, arriving, seed).run(policy)
        limits = policy.said if isinstance(policy, FlowBinding) else {}
        scores[label] = Score(
            cost=result.cost / (bound or work),
            late=result.late,
            worst=result.late,
            events=result.events,
            flaps=result.flaps,
            moved=result.moved,
            oldest=result.oldest,
            waited=result.waited,
            limits=dict(limits),
        )
    if bound is None:
        return name, None, scores
    seconds, steps = settled(setting)
    return name, (bound / work, seconds / bound, steps), scores


def _row(name: str, runs: Sequence[Run]) -> Row:
    least = [run[1] for run in runs if run[1] is not None]
    bound, cost, steps = (fmean(of) for of in zip(*least, strict=True)) if least else (None,) * 3
    labels = runs[0][2]
    found = {label: [run[2][label] for run in runs if label in run[2]] for label in labels}
    scores = {label: _mean(of) for label, of in found.items()}
    return Row(name, bound, cost, steps, scores)


def _mean(scores: Sequence[Score]) -> Score:
    limits: dict[str, float] = {}
    for score in scores:
        for reason, seconds in score.limits.items():
            limits[reason] = limits.get(reason, 0.0) + seconds / len(scores)
    return Score(
        cost=fmean(s.cost for s in scores),
        late=fmean(s.late for s in scores),
        worst=max(s.late for s in scores),
        events=fmean(s.events for s in scores),
        flaps=fmean(s.flaps for s in scores),
        moved=fmean(s.moved for s in scores),
        oldest=fmean(s.oldest for s in scores),
        waited=max(s.waited for s in scores),
        limits=limits,
    )
