"""What arrives, and what the world is like meanwhile. Everything follows from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flowbinding_api.spec import Ordering

POISON_SECONDS = 900.0
"""How long a poison message is tried again and again before it becomes a dead letter."""

Rate = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Message:
    """A message.

    Attributes:
        time: When it arrives, in seconds from the start.
        work: Seconds that a run of it takes on an idle backend.
        poison: Whether it never ends well: it does not count for the age of the backlog.
    """

    time: float
    partition: int
    key: int
    work: float
    poison: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """The world of a run.

    Attributes:
        rate: Messages a second that arrive, over time.
        bursts: (time, messages) that arrive at once.
        seconds: How long it is looked at.
        partitions: Of the topic.
        grown: (time, partitions): more partitions from then on.
        slots: Runs in flight in one worker.
        mean: Mean seconds of a run; lognormal with `sigma`.
        tail: (share, factor): so many runs take so many times as long.
        hot: Share of the messages that go to partition 0, on top of an even spread.
        keys: Keys of each partition; 0: every message has its own.
        capacity: Runs the backend can do at once at full speed.
        slow: (from, to, factor): runs take so many times as long then.
        outage: (from, to): brokers are away; what is sent meanwhile arrives afterwards.
        poison_at: When a poison message arrives, in partition 1.
        start: Median seconds until a new Pod works; lognormal.
        pause: Seconds for which a partition that moves is not worked on.
        lost: Share of the looks at Kafka that fail.
        known: Whether the binding ran before, so that its status tells how long a run takes.
        slo: Seconds after which an unfinished message is too old.
    """

    name: str
    rate: Rate = lambda _: 0.0
    bursts: Sequence[tuple[float, int]] = ()
    seconds: int = 3600
    partitions: int = 24
    grown: tuple[float, int] | None = None
    slots: int = 1
    mean: float = 0.5
    sigma: float = 0.5
    tail: tuple[float, float] = (0.0, 1.0)
    hot: float = 0.0
    keys: int = 0
    ordering: Ordering = Ordering.KEY
    capacity: float = math.inf
    slow: tuple[float, float, float] | None = None
    outage: tuple[float, float] | None = None
    poison_at: float | None = None
    start: float = 15.0
    pause: float = 3.0
    lost: float = 0.01
    slo: float = 60.0
    known: bool = True
    scaling: dict[str, object] = field(default_factory=dict)

    @property
    def worker_rate(self) -> float:
        """Messages a second that one worker does."""
        share, factor = self.tail
        return self.slots / (self.mean * (1 + share * (factor - 1)))


def messages(setting: Setting, seed: int) -> list[Message]:
    """All messages of a run, in the order of their arrival: a Poisson stream of that rate."""
    dice = random.Random(f"{setting.name}-{seed}")
    times = [*_stream(setting, dice)]
    for at, count in setting.bursts:
        times += [at] * count
    if setting.outage:
        begin, end = setting.outage
        times = [end if begin <= time < end else time for time in times]
    times.sort()
    result = [_message(setting, dice, time) for time in times]
    if setting.poison_at is not None:
        result.append(Message(setting.poison_at, 1, 0, POISON_SECONDS, poison=True))
        result.sort(key=lambda message: message.time)
    return result


def _stream(setting: Setting, dice: random.Random) -> Sequence[float]:
    highest = max(setting.rate(float(second)) for second in range(setting.seconds)) * 1.05
    times, now = [], 0.0
    while highest > 0:
        now += dice.expovariate(highest)
        if now >= setting.seconds:
            break
        if dice.random() * highest < setting.rate(now):
            times.append(now)
    return times


def _message(setting: Setting, dice: random.Random, time: float) -> Message:
    count = setting.partitions
    if setting.grown and time >= setting.grown[0]:
        count = setting.grown[1]
    partition = 0 if dice.random() < setting.hot else dice.randrange(count)
    mu = math.log(setting.mean) - setting.sigma**2 / 2
    work = dice.lognormvariate(mu, setting.sigma)
    share, factor = setting.tail
    if dice.random() < share:
        work *= factor
    key = 0 if setting.ordering is Ordering.PARTITION else 1 + dice.randrange(setting.keys or 2**31)
    return Message(time, partition, key, work)


def step(low: float, high: float, begin: float, end: float) -> Rate:
    return lambda t: high if begin <= t < end else low


def ramp(low: float, high: float, seconds: float) -> Rate:
    return lambda t: low + (high - low) * t / seconds


def wave(mean: float, swing: float, period: float) -> Rate:
    return lambda t: mean - swing * math.cos(2 * math.pi * t / period)


def switching(low: float, high: float, seconds: float, seed: int) -> Rate:
    """A rate that jumps between two values, at times that are a Poisson stream themselves."""
    dice = random.Random(seed)
    edges, now = [], 0.0
    while now < 20_000:
        now += dice.expovariate(1 / seconds)
        edges.append(now)

    def rate(t: float) -> float:
        return high if sum(edge <= t for edge in edges) % 2 else low

    return rate


def settings(seed: int = 0) -> list[Setting]:
    """Every workload. Of those called "any", the height follows from the seed."""
    dice = random.Random(seed)
    low, high, level = dice.uniform(1, 4), dice.uniform(14, 24), dice.uniform(5, 20)
    flat = Setting("noise", wave(12, 0, 3600))
    main = [
        replace(setting, slots=10, mean=5.0)
        for setting in (
            Setting("step", step(2, 20, 900, 2400)),
            Setting("ramp", ramp(2, 30, 3600)),
            Setting("diurnal", wave(12, 10, 7200), seconds=7200),
            flat,
        )
    ]
    return [
        *main,
        Setting("step, any", step(low, high, 900, 2400)),
        replace(flat, name="noise, any", rate=wave(level, 0, 3600)),
        replace(flat, name="bursty", rate=switching(6, 18, 120, seed)),
        replace(flat, name="heavy tail", tail=(0.01, 10.0)),
        Setting("burst from zero", bursts=((300, 1500), (1500, 1500), (2700, 1500))),
        Setting("sparse", lambda _: 1 / 120),
        Setting("hot below", wave(8, 0, 3600), hot=0.1),
        Setting("hot beyond", wave(8, 0, 3600), hot=0.4),
        Setting("poison", wave(8, 0, 3600), poison_at=600.0, keys=200),
        Setting(
            "poison, by partition",
            wave(8, 0, 3600),
            poison_at=600.0,
            ordering=Ordering.PARTITION,
        ),
        Setting("backend full", step(4, 14, 600, 3000), capacity=5.0),
        Setting("backend slow", wave(8, 0, 3600), slow=(1200, 2400, 3.0)),
        Setting("broker outage", wave(8, 0, 3600), outage=(1200, 1500)),
        Setting("more partitions", ramp(4, 24, 3600), partitions=6, grown=(1800.0, 24)),
        *_other_sizes(),
        *(
            replace(setting, name=f"{setting.name}, short runs", slots=1, mean=0.5)
            for setting in main
        ),
    ]


def _other_sizes() -> list[Setting]:
    result = []
    for count in (1, 3, 10, 12, 50, 64, 126):
        low = count / 12
        rate = step(low, 10 * low, 900, 2400)
        result.append(Setting(f"step, P={count}", rate, partitions=count))
    return result
