"""A group of workers in virtual time that hands one partition around, for tests of the protocol.

The trackers, entries and decisions are the worker's own. Kafka, the flow, clocks and what a worker
does in between are modelled, in the order in which the worker does it; a message's result is
written the moment that its run ends.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from flowbinding_api.offsets import decode as decode_commit
from flowbinding_worker.handover import LANES
from flowbinding_worker.handover.entry import Item, State, decode, encode, fingerprint
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.ports import Record
from flowbinding_worker.tracker import Tracker
from handover_broker import NONE, TICK, Broker, Faults, P

SESSION = 45.0
DRAIN = 20.0
GRACE = 40.0
KEYS = 3
SLOTS = 4
FETCH = 2
MISSED = 0.2
"""How often a member learns of the next generation before it could take up its part in one."""


@dataclass(eq=False)
class Run:
    """A message that runs."""

    record: Record
    tracker: Tracker
    ends: float
    attempts: int


@dataclass(eq=False)
class Waiting:
    """A message that waits."""

    record: Record
    attempts: int = 0
    due: float = 0.0
    held: bool = False


@dataclass(eq=False)
class Member:
    """A worker."""

    world: World
    number: int
    alive: bool = True
    died_at: float = math.inf
    stalled_since: float = 0.0
    stalled_until: float = 0.0
    expelled: bool = False
    leaving_at: float = math.inf
    joined: bool = False
    revoking_since: float = math.inf
    owned_in: int = -1
    tracker: Tracker | None = None
    suspended: Tracker | None = None
    incoming: Incoming = field(default_factory=Incoming)
    outgoing: dict[int, Outgoing] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    beat: int = 0

    @property
    def left(self) -> bool:
        return self not in self.world.members

    @property
    def over(self) -> bool:
        """Whether it has left and has nothing to do or say any more."""
        return self.leaving_at < math.inf and not self.runs and not self.outgoing

    def clock(self) -> float:
        return self.world.now

    def step(self) -> None:
        """All that a worker's tasks would do by now."""
        if self.expelled:
            self.flush()
            self.return_()
        self.runs = [r for r in self.runs if not r.tracker.retired]
        for run in [r for r in self.runs if r.ends <= self.world.now]:
            self.runs.remove(run)
            self.end(run)
        self.flush()
        self.ask()
        if self.tracker is not None and self.revoking_since == math.inf:
            self.work(self.tracker)
        if self.left and self.world.now >= self.leaving_at + GRACE:
            self.give_back({r.tracker for r in self.runs})
            self.flush()

    def end(self, run: Run) -> None:
        world, offset = self.world, run.record.offset
        if run.tracker.retired:
            return
        if run.attempts == 0 and world.fails(run.record):
            due = world.now + 1.0
            if run.tracker.handed is not None:
                run.tracker.handed.free(offset, 1, due)
            if run.tracker in (self.tracker, self.suspended):
                self.waiting.append(Waiting(run.record, 1, due))
                self.waiting.sort(key=lambda w: w.record.offset)
            return
        world.write(self, run)
        self.complete(run.tracker, run.record)
        if run.tracker.handed is not None:
            run.tracker.handed.done(offset)

    def complete(self, tracker: Tracker, record: Record) -> None:
        assert record.offset in self.world.written, f"{record.offset} counts as done and is not"
        tracker.complete(record.offset)

    def work(self, tracker: Tracker) -> None:
        """Fetch, start what can start, and commit."""
        log = self.world.log
        at = tracker.position or 0
        until = min(at + FETCH, len(log))
        for record in tracker.fetched(log[at:until], until):
            fate = self.incoming.fate(record.offset, fingerprint(record))
            if fate.turn is Turn.DONE:
                self.complete(tracker, record)
            else:
                held = fate.turn is Turn.HELD
                self.waiting.append(Waiting(record, fate.attempts, fate.due, held))
        busy = {r.record.key for r in self.runs if r.tracker is tracker}
        for one in list(self.waiting):
            free = len(self.runs) < SLOTS and not one.held and one.due <= self.world.now
            if free and one.record.key not in busy:
                self.waiting.remove(one)
                self.runs.append(self.world.start(one.record, tracker, one.attempts))
            busy.add(one.record.key)
        self.world.commit(self, tracker)

    def ask(self) -> None:
        tracker = self.tracker or self.suspended
        if tracker is not None and (lanes := self.incoming.awaited(tracker)):
            self.hear(tracker, lanes)

    def hear(self, tracker: Tracker, lanes: set[int]) -> None:
        self.read(lanes)
        for one in [w for w in self.waiting if w.held]:
            fate = self.incoming.fate(one.record.offset, fingerprint(one.record))
            if fate.turn is Turn.DONE:
                self.waiting.remove(one)
                self.complete(tracker, one.record)
            elif fate.turn is Turn.READY:
                one.held, one.attempts, one.due = False, fate.attempts, fate.due

    def read(self, lanes: set[int]) -> bool:
        if self.world.down or self.world.happens(self.world.faults.unreadable):
            return False
        for lane in lanes:
            text = self.world.registers.get(lane)
            entry = None if text is None else decode(text)
            self.incoming.read(lane, entry, self.world.now, self.world.now)
        return True

    def flush(self) -> None:
        for lane, outgoing in list(self.outgoing.items()):
            if outgoing.due:
                self.say(lane, outgoing)
            if outgoing.over:
                del self.outgoing[lane]
                if outgoing.closable:
                    self.say(lane, outgoing, closed=True)

    def say(self, lane: int, outgoing: Outgoing, *, closed: bool = False) -> None:
        self.beat += 1
        version, items = outgoing.say()
        text = encode(self.number, self.beat, items, closed=closed)
        assert text is not None
        if self.world.say(lane, text):
            outgoing.acknowledged(version, self.world.now)

    def return_(self) -> None:
        """Learn that the group has gone on without us, and join it again."""
        if self.tracker is not None:
            self.give_back({self.tracker})
        self.tracker = self.suspended = None
        self.waiting, self.revoking_since = [], math.inf
        self.expelled = self.joined = False
        self.world.members.append(self)
        self.world.rebalance()

    def announce(self, tracker: Tracker) -> None:
        if self.incoming.free_lane(tracker) is None:
            self.hear(tracker, set(range(LANES)))
        items = {
            w.record.offset: Item(
                fingerprint(w.record),
                State.FREE,
                w.attempts,
                max(0, round(1000 * (w.due - self.world.now))),
            )
            for w in self.waiting
            if w.attempts
        }
        running = {r.record: r for r in self.runs if r.tracker is tracker}
        items |= {
            record.offset: Item(fingerprint(record), State.RUNNING, run.attempts)
            for record, run in running.items()
        }
        lane = self.incoming.free_lane(tracker)
        if items and lane is not None:
            self.incoming.opened(lane)
            tracker.handed = self.outgoing[lane] = Outgoing(items, self.clock)

    def settled(self, tracker: Tracker) -> bool:
        """One round of a revocation: whether it is over."""
        if tracker.handed is None or tracker.handed.vain:
            self.announce(tracker)
        self.flush()
        member = self.world.commit(self, tracker)
        handed = tracker.handed is not None and tracker.handed.covered
        return not any(r.tracker is tracker for r in self.runs) or (member and handed)

    def revoke(self) -> bool:
        """Take part in a rebalance; False while it has to wait for this worker."""
        if self.tracker is None:
            return True
        if self.revoking_since == math.inf:
            self.revoking_since = self.world.now
        if not self.settled(self.tracker):
            if self.world.now < self.revoking_since + DRAIN:
                return False
            self.world.drained += 1
            self.give_back({self.tracker})
            self.flush()
        self.revoking_since = math.inf
        self.suspended, self.tracker = self.tracker, None
        return True

    def give_back(self, trackers: set[Tracker]) -> None:
        for tracker in trackers:
            tracker.retire()
            if tracker.handed is not None:
                tracker.handed.free_running()
        self.runs = [r for r in self.runs if r.tracker not in trackers]

    def unbroken(self) -> bool:
        """Whether nobody else can have had the partition since."""
        return self.world.generation == self.owned_in + 1

    def assigned(self, *, ours: bool) -> None:
        world, before, self.suspended = self.world, self.suspended, None
        if ours and before is not None and self.unbroken() and not before.retired:
            if before.handed is not None:
                before.handed.withdraw()
                before.handed = None
            self.tracker, self.owned_in = before, world.generation
            world.kept += 1
            return
        self.waiting = []
        if not ours:
            return
        self.incoming = Incoming()
        for _ in range(100):
            if self.read(set(range(LANES))):
                break
        offset, metadata = world.committed
        progress = decode_commit(offset, metadata).progress if metadata else None
        self.tracker, self.owned_in = Tracker(offset, progress), world.generation


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
