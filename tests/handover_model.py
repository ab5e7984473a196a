"""A group of workers in virtual time that hands one partition around, for tests of the protocol.

The trackers, entries and decisions are the worker's own. Kafka, the flow, clocks and what a worker
does in between are modelled, in the order in which the worker does it; a message's result is
written the moment that its run ends.
"""

from __future__ import annotations

import math
from collections import Counter

from flowbinding_worker.ports import Record
from flowbinding_worker.tracker import Tracker
from handover_broker import NONE, TICK, Broker, Faults, P
from handover_member import Member, Run

SESSION = 45.0
KEYS = 3
MISSED = 0.2
"""How often a member learns of the next generation before it could take up its part in one."""


class World(Broker):
    """A group, and everything that happens to it."""

    def __init__(self, seed: int, faults: Faults) -> None:
        super().__init__(seed, faults)
        self.wrote: Counter[int] = Counter()
        self.started: Counter[int] = Counter()
        self.generation = 0
        self.owner: Member | None = None
        self.members: list[Member] = []
        self.workers: list[Member] = []
        self.rebalancing = False
        self.again_at = math.inf
        self.drained = self.kept = 0

    def fails(self, record: Record) -> bool:
        return record.offset % 7 == 3

    def start(self, record: Record, tracker: Tracker, attempts: int) -> Run:
        if self.faults is NONE:
            others = [r for w in self.workers for r in w.runs if r.record.key == record.key]
            assert not others, f"{record.offset} begins while {others[0].record.offset} runs"
        self.started[record.offset] += 1
        seconds = self.random.choice([0.5, 1.0, 3.0, 10.0, 30.0])
        return Run(record, tracker, self.now + seconds, attempts)

    def write(self, member: Member, run: Run) -> None:
        others = [w for w in self.workers if w is not member and w.alive and not w.expelled]
        rivals = [r for w in others for r in w.runs if not r.tracker.retired]
        same = [r for r in rivals if r.record.key == run.record.key]
        assert not same, f"{run.record.offset} is written while {same[0].record.offset} runs"
        self.written.add(run.record.offset)
        self.wrote[run.record.offset] += 1

    def commit(self, member: Member, tracker: Tracker) -> bool:
        """Whether it was acknowledged; a member of an older generation could not."""
        assert member.owned_in == self.generation, "somebody else may own it"
        return self.take(tracker.committable or 0, tracker.progress())

    def join(self) -> None:
        member = Member(self, len(self.workers) + 1)
        self.workers.append(member)
        self.members.append(member)
        self.rebalance()

    def rebalance(self) -> None:
        self.rebalancing = True
        for member in self.members:
            member.joined = False

    def leave(self, member: Member) -> None:
        """SIGTERM: it hands over and goes; one that cannot hand over dies of it here."""
        if member.tracker is not None:
            if not member.settled(member.tracker):
                member.give_back({member.tracker})
                member.flush()
            member.tracker = None
        member.waiting = []
        member.leaving_at = self.now
        self.members.remove(member)
        self.rebalance()

    def tick(self) -> None:
        self.now += TICK
        self.arrive()
        for member in self.workers:
            if member.alive and member.stalled_until <= self.now and not member.over:
                member.step()
        for member in [m for m in self.members if self.now > m.died_at + SESSION]:
            self.members.remove(member)
            self.rebalance()
        for member in [m for m in self.members if m.stalled_until > self.now]:
            if self.now > member.stalled_since + SESSION:
                member.expelled = True
                self.members.remove(member)
                self.rebalance()
        if self.now >= self.again_at:
            self.again_at = math.inf
            self.rebalance()
        if self.down:
            # Everybody joins again when it is back.
            self.again_at = self.down_until
        elif self.rebalancing:
            self._hand_out()

    def _hand_out(self) -> None:
        for member in self.members:
            awake = member.alive and member.stalled_until <= self.now
            if awake and not member.joined:
                member.joined = member.revoke()
        if not all(m.joined for m in self.members):
            return
        self.rebalancing = False
        self.generation += 1
        if self.owner not in self.members or self.random.random() < 0.6:
            self.owner = self.random.choice(self.members) if self.members else None
        others = [m for m in self.members if m is not self.owner]
        late = self.random.choice(others) if others and self.happens(MISSED) else None
        for member in self.members:
            if member is not late:
                member.assigned(ours=member is self.owner)
        if late is not None:
            self.again_at = self.now + self.random.choice([TICK, 2.0])

    def mischief(self) -> None:
        """Something that happens to a group sooner or later."""
        calm = [m for m in self.members if m.alive and m.stalled_until <= self.now]
        what = self.random.random()
        if what < 0.02 and len(self.members) < 4:
            self.join()
        elif what < 0.03 and len(calm) > 1 and not self.rebalancing:
            self.leave(self.random.choice(calm))
        elif not self.rebalancing and self.happens(self.faults.restless):
            self.rebalance()
        if not self.down and self.happens(self.faults.restart):
            self.down_until = self.now + self.random.choice([2.0, 8.0, 20.0])
        for member in self.workers:
            if member.alive and self.happens(self.faults.kill):
                member.alive, member.died_at, member.runs = False, self.now, []
            elif member.alive and self.happens(self.faults.stall):
                member.stalled_since = self.now
                seconds = self.random.choice([3.0, 9.0, 12.0, 16.0, 40.0])
                if member in self.members and self.happens(self.faults.expelled):
                    seconds = SESSION + self.random.choice([0.5, 5.0, 30.0])
                member.stalled_until = self.now + seconds

    def produce(self) -> None:
        offset = len(self.log)
        self.log.append(Record(P, offset, b"%d" % (offset % KEYS), None, (), offset))

    def play(self, ticks: int, messages: int) -> None:
        """Let things happen, and then let everything come to rest."""
        self.join()
        for number in range(ticks):
            if number < messages:
                self.produce()
            self.mischief()
            self.tick()
        self.faults, self.down_until = Faults(), 0.0
        for member in self.workers:
            member.stalled_until = 0.0
        if not any(m.alive for m in self.members):
            self.join()
        for _ in range(int(1500 / TICK)):
            self.tick()
            if self.committed[0] == len(self.log):
                return
        raise AssertionError(f"only {self.committed[0]} of {len(self.log)} done")
