"""The world in discrete events: partitions, workers with slots, a backend, and Pods that start."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from scaling.view import Policy, View
from scaling.workloads import Message, Setting

MOST_HELD = 500
"""Messages of a partition that wait for their key; no more are taken then."""
MEAN_SHARE = 0.02
"""Weight of a run in the mean that workers report."""


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
    """A worker.

    Attributes:
        busy: Slots in use.
        held: The same by partition.
        partitions: In the order of their turns.
        by_turn: Whether the next slot goes by turns, and not to the oldest message.
    """

    ready: bool = False
    gone: bool = False
    busy: int = 0
    held: Counter[int] = field(default_factory=Counter)
    partitions: list[int] = field(default_factory=list)
    by_turn: bool = True


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
        waited: The longest that a message waited for its run to begin; nor does it here.
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
    waited: float = 0.0
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
            # While a slot is free, no other partition of the worker has anything to begin.
            self._begin(message.partition, pod)

    def _head(self, partition: Partition) -> int | None:
        """The offset that may begin next, if any; what is before it waits for its key from now."""
        if partition.free_at > self.now or self._away():
            return None
        if partition.resumed:
            return partition.resumed[0]
        ids, lanes = partition.ids, partition.lanes
        while partition.taken < len(ids) and partition.held < MOST_HELD:
            lane = lanes.get(self.messages[ids[partition.taken]].key)
            if lane is None:
                return partition.taken
            lane.append(partition.taken)
            partition.taken += 1
            partition.held += 1
        return None

    def _begin(self, number: int, pod: Pod) -> None:
        """Start the next message of a partition, if there is one that may begin."""
        partition = self.partitions[number]
        offset = self._head(partition)
        if offset is None:
            return
        if partition.resumed:
            partition.resumed.popleft()
        else:
            partition.taken += 1
            partition.lanes[self.messages[partition.ids[offset]].key] = deque()
        self._start(pod, number, offset)

    def _start(self, pod: Pod, number: int, offset: int) -> None:
        message = self.messages[self.partitions[number].ids[offset]]
        pod.busy += 1
        pod.held[number] += 1
        self.in_flight += 1
        waited = self.now - max(message.time, self._back_at())
        self.result.waited = max(self.result.waited, waited)
        seconds = message.work * max(1.0, self.in_flight / self.setting.capacity)
        if self.setting.slow and self.setting.slow[0] <= self.now < self.setting.slow[1]:
            seconds *= self.setting.slow[2]
        self._at(self.now + seconds, self._finish, pod, number, offset, seconds)

    def _finish(self, pod: Pod, number: int, offset: int, seconds: float) -> None:
        partition = self.partitions[number]
        pod.busy -= 1
        pod.held[number] -= 1
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
        """Give free slots work."""
        while pod.busy < self.setting.slots:
            number = self._next(pod)
            if number is None:
                return
            self._begin(number, pod)

    def _next(self, pod: Pod) -> int | None:
        """By turns and to the oldest message alternately, as workers do."""
        heads = list(islice(self._heads(pod), 1 if pod.by_turn else None))
        if not heads:
            return None
        pod.by_turn = not pod.by_turn
        # A partition whose runs hold half of the slots has only its turns.
        few = [head for head in heads if 2 * pod.held[head[0]] < self.setting.slots]
        times = [time for _, time in few]
        if times and min(times) < max(times):
            return few[times.index(min(times))][0]
        number = heads[0][0]
        after = pod.partitions.index(number) + 1
        pod.partitions = pod.partitions[after:] + pod.partitions[:after]
        return number

    def _heads(self, pod: Pod) -> Iterator[tuple[int, float]]:
        """Partitions with a message that may begin, in the order of their turns, and its time."""
        for number in pod.partitions:
            partition = self.partitions[number]
            if partition.taken < len(partition.ids) or partition.resumed:
                offset = self._head(partition)
                if offset is not None:
                    yield number, self.messages[partition.ids[offset]].time

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
