"""The world in discrete events: partitions, workers with slots, a backend, and Pods that start."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scaling.workloads import Message, Setting

MOST_HELD = 500
"""Messages of a partition that wait for their key; no more are taken then."""
MEAN_SHARE = 0.02
"""Weight of a run in the mean that workers report."""


@dataclass(slots=True)
class View:
    """What a policy may see.

    Attributes:
        ends: End offset by partition.
        committed: Committed offset by partition, as of the last commit.
        done: The same and what is done beyond, as commit metadata tells.
        seconds: Mean seconds of a run as workers report it; None before the first.
        busy: Share of the slots of ready workers in use.
        known: Whether Kafka answered.
    """

    time: float
    ends: tuple[int, ...]
    committed: tuple[int, ...]
    done: tuple[int, ...]
    completed: int
    seconds: float | None
    busy: float
    ready: int
    desired: int
    known: bool

    @property
    def lag(self) -> int:
        return sum(self.ends) - sum(self.committed)


class Policy(Protocol):
    """A scaling policy: asked every `period` seconds."""

    period: float

    def step(self, view: View) -> int | None: ...


@dataclass(slots=True)
class Partition:
    """A partition.

    Attributes:
        ids: Its messages, in order.
        taken: How many of them a worker has taken.
        base: Offset of the first that is not done.
        finished: Offsets beyond `base` that are done.
        free_at: When it may be worked on after it has moved.
        lanes: Keys with a run, and the offsets that wait for it to end.
        held: How many of them there are.
        resumed: Offsets whose key is free, but their worker has changed meanwhile.
    """

    ids: list[int] = field(default_factory=list)
    taken: int = 0
    base: int = 0
    finished: set[int] = field(default_factory=set)
    owner: Pod | None = None
    free_at: float = 0.0
    lanes: dict[int, deque[int]] = field(default_factory=dict)
    held: int = 0
    resumed: deque[int] = field(default_factory=deque)
    committed: int = 0
    done: int = 0


@dataclass(slots=True, eq=False)
class Pod:
    ready: bool = False
    gone: bool = False
    busy: int = 0
    partitions: list[int] = field(default_factory=list)
    turn: int = 0


@dataclass(slots=True)
class Result:
    """What a run came to.

    Attributes:
        cost: Pod-seconds.
        work: The least that could be: seconds of work over slots.
        late: Seconds in which an unfinished message was older than the SLO.
        events: Changes of the wanted number.
        moved: Partitions that went from one worker to another.
        oldest: The highest age of an unfinished message; an outage of the brokers does not count.
        reasons: What the policy said, by the seconds it said so.
        trace: (time, wanted, Pods, ready, messages not done, age).
    """

    cost: float = 0.0
    work: float = 0.0
    late: int = 0
    events: int = 0
    flaps: int = 0
    moved: int = 0
    oldest: float = 0.0
    unfinished: int = 0
    highest: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    trace: list[tuple[int, int, int, int, int, float]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)


class World:
    """One run of a policy."""

    def __init__(self, setting: Setting, messages: Sequence[Message], seed: int) -> None:
        self.setting, self.messages = setting, messages
        self.dice = random.Random(f"world-{setting.name}-{seed}")
        self.partitions = [Partition() for _ in range(setting.partitions)]
        self.pods: list[Pod] = []
        self.draining: list[Pod] = []
        self.desired = 0
        self.now = 0.0
        self.in_flight = 0
        self.completed = 0
        self.mean: float | None = None
        self.result = Result()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._grown = setting.grown

    def run(self, policy: Policy) -> Result:
        self._at(1.0, self._second)
        self._at(policy.period * self.dice.random(), self._ask, policy)
        arriving, total = 0, len(self.messages)
        end = float(self.setting.seconds)
        heap, messages = self._heap, self.messages
        while True:
            due = heap[0][0]
            if arriving < total and messages[arriving].time <= due:
                self.now = messages[arriving].time
                self._arrive(arriving)
                arriving += 1
                continue
            if due > end:
                break
            self.now, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
        self.result.work = sum(m.work for m in messages if not m.poison) / self.setting.slots
        self.result.unfinished = total - self.completed
        return self.result

    # Messages

    def _arrive(self, index: int) -> None:
        message = self.messages[index]
        if self._grown and message.time >= self._grown[0]:
            self._grow(self._grown[1])
        partition = self.partitions[message.partition]
        partition.ids.append(index)
        pod = partition.owner
        if pod is not None and pod.busy < self.setting.slots:
            self._take(message.partition, pod)

    def _take(self, number: int, pod: Pod) -> bool:
        """Start the next messages of a partition. Whether a slot is still free."""
        partition = self.partitions[number]
        if partition.free_at > self.now or self._away():
            return True
        ids, lanes, slots = partition.ids, partition.lanes, self.setting.slots
        while partition.resumed and pod.busy < slots:
            self._start(pod, number, partition.resumed.popleft())
        while pod.busy < slots and partition.taken < len(ids) and partition.held < MOST_HELD:
            offset = partition.taken
            partition.taken += 1
            lane = lanes.get(self.messages[ids[offset]].key)
            if lane is None:
                lanes[self.messages[ids[offset]].key] = deque()
                self._start(pod, number, offset)
            else:
                lane.append(offset)
                partition.held += 1
        return pod.busy < slots

    def _start(self, pod: Pod, number: int, offset: int) -> None:
        message = self.messages[self.partitions[number].ids[offset]]
        pod.busy += 1
        self.in_flight += 1
        seconds = message.work * max(1.0, self.in_flight / self.setting.capacity)
        if self.setting.slow and self.setting.slow[0] <= self.now < self.setting.slow[1]:
            seconds *= self.setting.slow[2]
        self._at(self.now + seconds, self._finish, pod, number, offset, seconds)

    def _finish(self, pod: Pod, number: int, offset: int, seconds: float) -> None:
        partition = self.partitions[number]
        pod.busy -= 1
        self.in_flight -= 1
        self.completed += 1
        self.mean = seconds if self.mean is None else self.mean + MEAN_SHARE * (seconds - self.mean)
        partition.finished.add(offset)
        while partition.base in partition.finished:
            partition.finished.remove(partition.base)
            partition.base += 1
        key = self.messages[partition.ids[offset]].key
        lane = partition.lanes[key]
        if not lane:
            del partition.lanes[key]
        else:
            partition.held -= 1
            partition.resumed.append(lane.popleft())
        if partition.owner is not None and partition.owner is not pod:
            self._fill(partition.owner)
        if pod.gone:
            if pod.busy == 0 and pod in self.draining:
                self.draining.remove(pod)
        else:
            self._fill(pod)

    def _fill(self, pod: Pod) -> None:
        """Give free slots work, from one partition after the other."""
        count = len(pod.partitions)
        for _ in range(count):
            if pod.busy >= self.setting.slots:
                return
            pod.turn = (pod.turn + 1) % count
            number = pod.partitions[pod.turn]
            partition = self.partitions[number]
            if partition.taken < len(partition.ids) or partition.resumed:
                self._take(number, pod)

    def _away(self) -> bool:
        outage = self.setting.outage
        return outage is not None and outage[0] <= self.now < outage[1]

    # Pods

    def scale(self, wanted: int) -> None:
        if wanted == self.desired:
            return
        changes = self.result.changes
        up = wanted > self.desired
        if changes and len(changes) > 1 and self.now - changes[-1][0] < 600:
            self.result.flaps += up != (changes[-1][1] > changes[-2][1])
        self.desired = wanted
        changes.append((self.now, wanted))
        self.result.events += 1
        while len(self.pods) < wanted:
            pod = Pod()
            self.pods.append(pod)
            delay = self.dice.lognormvariate(math.log(self.setting.start), 0.3)
            self._at(self.now + delay, self._ready, pod)
        newest_first = self.pods[::-1]
        leaving = sorted(newest_first, key=lambda pod: pod.ready)[: len(self.pods) - wanted]
        for pod in leaving:
            self.pods.remove(pod)
            pod.gone = True
            if pod.busy:
                self.draining.append(pod)
        if any(pod.ready for pod in leaving):
            self._rebalance()

    def _ready(self, pod: Pod) -> None:
        if not pod.gone:
            pod.ready = True
            self._rebalance()

    def _rebalance(self) -> None:
        """Deal the partitions out evenly, moving as few as possible."""
        members = [pod for pod in self.pods if pod.ready]
        for pod in [*self.pods, *self.draining]:
            pod.partitions = []
        free = []
        if members:
            least, more = divmod(len(self.partitions), len(members))
            for number, partition in enumerate(self.partitions):
                owner = partition.owner
                if owner is not None and not owner.gone and owner.ready:
                    held = len(owner.partitions)
                    if held < least or (held == least and more > 0):
                        more -= held == least
                        owner.partitions.append(number)
                        continue
                free.append(number)
        for number in free:
            pod = min(members, key=lambda pod: len(pod.partitions))
            pod.partitions.append(number)
            partition = self.partitions[number]
            if partition.owner is not None:
                self.result.moved += 1
            partition.owner = pod
            partition.free_at = self.now + self.setting.pause
        if not members:
            for partition in self.partitions:
                partition.owner = None
        if free:
            self._at(self.now + self.setting.pause, self._fill_all)

    def _fill_all(self) -> None:
        for pod in self.pods:
            self._fill(pod)

    def _grow(self, count: int) -> None:
        self._grown = None
        self.partitions += [Partition() for _ in range(count - len(self.partitions))]
        self._rebalance()

    # Time

    def _at(self, time: float, action: Callable[..., None], *arguments: object) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, action, arguments))

    def _second(self) -> None:
        self._at(self.now + 1.0, self._second)
        pods = len(self.pods) + len(self.draining)
        waiting, oldest = 0, 0.0
        for partition in self.partitions:
            partition.committed = partition.base
            partition.done = partition.base + len(partition.finished)
            waiting += len(partition.ids) - partition.done
            age = self._age(partition)
            oldest = max(oldest, age)
        result = self.result
        result.cost += pods
        result.late += oldest > self.setting.slo
        result.oldest = max(result.oldest, oldest)
        result.highest = max(result.highest, pods)
        ready = sum(pod.ready for pod in self.pods)
        result.trace.append((round(self.now), self.desired, pods, ready, waiting, oldest))
        if self.setting.outage and self.now - 1 < self.setting.outage[1] <= self.now:
            self._fill_all()

    def _age(self, partition: Partition) -> float:
        offset = partition.base
        while offset < len(partition.ids):
            message = self.messages[partition.ids[offset]]
            if not message.poison and offset not in partition.finished:
                return self.now - max(message.time, self._back_at())
            offset += 1
        return 0.0

    def _back_at(self) -> float:
        """No policy can help against what waits while the brokers are away."""
        outage = self.setting.outage
        return min(outage[1], self.now) if outage and self.now >= outage[0] else 0.0

    def _ask(self, policy: Policy) -> None:
        jitter = 1 + 0.1 * (self.dice.random() - 0.5)
        self._at(self.now + policy.period * jitter, self._ask, policy)
        ready = sum(pod.ready for pod in self.pods)
        lost = self.dice.random() < self.setting.lost or self._away()
        view = View(
            time=self.now,
            ends=tuple(len(partition.ids) for partition in self.partitions),
            committed=tuple(partition.committed for partition in self.partitions),
            done=tuple(partition.done for partition in self.partitions),
            completed=self.completed,
            seconds=self.mean if ready else None,
            busy=sum(pod.busy for pod in self.pods) / max(1, ready * self.setting.slots),
            ready=ready,
            desired=self.desired,
            known=not lost,
        )
        wanted = policy.step(view)
        if wanted is not None:
            self.scale(wanted)
