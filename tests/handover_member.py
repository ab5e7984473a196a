"""A worker of `handover_model`: what it runs, hands over and takes up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handover_model import World


import math
from dataclasses import dataclass, field

from flowbinding_api.offsets import decode as decode_commit
from flowbinding_worker.handover import LANES
from flowbinding_worker.handover.entry import Item, State, decode, encode, fingerprint
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.ports import Record
from flowbinding_worker.tracker import Tracker

DRAIN = 20.0
GRACE = 40.0
SLOTS = 4
FETCH = 2


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
