"""The leader election: never two at once, whatever requests do; handed on at once, or by time."""

from __future__ import annotations

import asyncio
import copy
import functools
import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_operator.claim import Claim
from flowbinding_operator.kube import KubeError
from flowbinding_operator.leader import Leader
from operator_fakes import Object

SECONDS = 15.0
LEASE = ("Lease", "system", "operator")


class FakeLeases:
    """An API server with optimistic locking, and nothing else."""

    def __init__(self) -> None:
        self.stored: Object | None = None
        self.down: KubeError | None = None
        self.silent = False
        self.written = asyncio.Event()
        self._versions = itertools.count(1)

    @property
    def spec(self) -> Object:
        assert self.stored is not None
        spec: Object = self.stored["spec"]
        return spec

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        await self._answer()
        assert (kind, namespace, name) == LEASE
        return copy.deepcopy(self.stored)

    async def create(self, manifest: Any) -> Object:
        await self._answer()
        if self.stored is not None:
            raise KubeError("exists", status=409)
        return self._store(manifest)

    async def replace(self, manifest: Any) -> Object:
        await self._answer()
        if self.stored is None:
            raise KubeError("not found", status=404)
        if manifest["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise KubeError("the object has been modified", status=409)
        return self._store(manifest)

    def _store(self, manifest: Any) -> Object:
        self.stored = copy.deepcopy(dict(manifest))
        version = {"resourceVersion": str(next(self._versions))}
        self.stored["metadata"] = {**self.stored["metadata"], **version}
        self.written.set()
        return copy.deepcopy(self.stored)

    async def _answer(self) -> None:
        await asyncio.sleep(3600 if self.silent else 0)
        if self.down:
            raise self.down


class Candidate:
    """A process that takes part; its term goes on until it is told to end."""

    def __init__(self, leases: FakeLeases, name: str, seconds: float = 0.6) -> None:
        self.leading, self.stood_down = asyncio.Event(), asyncio.Event()
        self.finish = asyncio.Event()
        self.seen: list[bool] = []
        self.leader = Leader(
            leases, "system", "operator", name, seconds=seconds, changed=self.seen.append
        )
        self.task = asyncio.create_task(self.leader.run(self._term))

    async def _term(self) -> None:
        self.stood_down.clear()
        self.leading.set()
        try:
            await self.finish.wait()
        finally:
            self.leading.clear()
            self.stood_down.set()

    async def crash(self) -> None:
        """End without giving anything back, as by SIGKILL."""
        self.leader._release = _nothing  # type: ignore[method-assign]
        await self.stop()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _nothing() -> None:
    pass


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.fixture
def leases() -> FakeLeases:
    return FakeLeases()


async def test_one_leads_and_the_other_is_ready_to(leases: FakeLeases) -> None:
    one, two = Candidate(leases, "one"), Candidate(leases, "two")
    async with asyncio.timeout(5):
        await one.leading.wait()
        await until(lambda: not two.leader.unready())
        # Several renewals long.
        for _ in range(3):
            leases.written.clear()
            await leases.written.wait()
    assert (one.leader.holds(), two.leader.holds()) == (True, False)
    assert not two.leading.is_set()
    assert leases.spec["holderIdentity"] == one.leader.identity
    assert leases.spec["leaseTransitions"] == 0
    assert (one.seen, two.seen) == ([True], [])
    await one.stop()
    await two.stop()


async def test_a_leader_that_stops_gives_the_lease_back_and_another_follows(
    leases: FakeLeases,
) -> None:
    # So long that only a lease given back explains that another follows within the test.
    one = Candidate(leases, "one", seconds=300)
    async with asyncio.timeout(5):
        await one.leading.wait()
        two = Candidate(leases, "two", seconds=300)
        one.finish.set()
        await one.task
        assert leases.spec["holderIdentity"] in ("", two.leader.identity)
        await two.leading.wait()
    assert leases.spec["leaseTransitions"] == 1
    await two.stop()
    assert leases.spec["holderIdentity"] == ""


async def test_a_leader_that_is_gone_without_a_word_is_followed_by_time(leases: FakeLeases) -> None:
    one = Candidate(leases, "one")
    async with asyncio.timeout(10):
        await one.leading.wait()
        two = Candidate(leases, "two")
        await one.crash()
        assert leases.spec["holderIdentity"] == one.leader.identity
        await two.leading.wait()
    await two.stop()


@pytest.mark.parametrize("silent", [False, True])
async def test_who_cannot_renew_stops_in_time_and_leads_again_later(
    leases: FakeLeases, silent: bool
) -> None:
    one = Candidate(leases, "one")
    async with asyncio.timeout(10):
        await one.leading.wait()
        leases.down, leases.silent = KubeError("connection refused"), silent
        await one.stood_down.wait()
        assert not one.leader.holds()
        await until(lambda: one.seen == [True, False])
        (problem,) = one.leader.unready()
        assert "Lease system/operator cannot be read or renewed" in problem
        leases.down, leases.silent = None, False
        await one.leading.wait()
    assert one.leader.unready() == []
    assert one.seen == [True, False, True]
    await one.stop()


async def test_a_lease_that_another_took_ends_the_term_at_once(leases: FakeLeases) -> None:
    one = Candidate(leases, "one")
    async with asyncio.timeout(5):
        await one.leading.wait()
        spec = {**leases.spec, "holderIdentity": "an administrator", "leaseDurationSeconds": 3600}
        leases._store({**(leases.stored or {}), "spec": spec})
        await one.stood_down.wait()
    assert leases.spec["holderIdentity"] == "an administrator"
    await one.stop()


async def test_a_lease_that_is_deleted_makes_no_second_leader(leases: FakeLeases) -> None:
    one, two = Candidate(leases, "one"), Candidate(leases, "two")
    async with asyncio.timeout(5):
        await one.leading.wait()
        await until(lambda: not two.leader.unready())
        leases.stored = None
        await until(lambda: leases.stored is not None)
        leases.written.clear()
        await leases.written.wait()
    assert leases.spec["holderIdentity"] == one.leader.identity
    assert (one.seen, two.seen) == ([True], [])
    await one.stop()
    await two.stop()


async def test_what_ends_a_term_ends_the_process(leases: FakeLeases) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Leader(leases, "system", "operator", "one").run(broken)
    assert leases.spec["holderIdentity"] == ""


async def test_a_refusal_is_told(leases: FakeLeases) -> None:
    leases.down = KubeError("leases is forbidden", status=403)
    one = Candidate(leases, "one")
    async with asyncio.timeout(5):
        await until(lambda: "forbidden" in str(one.leader.unready()))
    assert one.leader.problems() == []
    await one.stop()


def test_an_election_that_hangs_fails_the_liveness_probe() -> None:
    now = 1000.0
    leader = Leader(FakeLeases(), "system", "operator", "one", clock=lambda: now)
    assert leader.problems() == []
    now += 61
    assert leader.problems() == ["the leader election makes no progress"]


# The rule itself, in a world where requests take time, get lost, or count without an answer.


class World:
    """Candidates with clocks of their own, and one Lease."""

    def __init__(self, offsets: list[float]) -> None:
        self.now = 0.0
        self.version = 0
        self.spec: Object = {}
        self.claims = [Claim(f"c{n}", SECONDS) for n in range(len(offsets))]
        self.offsets = offsets
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def clock(self, who: int) -> float:
        return self.now + self.offsets[who]

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what))

    def run(self) -> Iterator[None]:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
            yield

    def attempt(self, who: int, there: float, back: float, write: float, answered: bool) -> None:
        """Read, then write if allowed, each with its delays."""

        def read() -> None:
            version, spec = self.version, dict(self.spec)
            self.later(back, lambda: decide(version, spec))

        def decide(version: int, spec: Object) -> None:
            now = self.clock(who)
            claim = self.claims[who]
            if not claim.may_take(spec, now):
                claim.given_up()
                return
            wanted = claim.spec(spec, f"t{self.now}")
            self.later(write, lambda: replace(version, wanted, now))

        def replace(version: int, spec: Object, sent: float) -> None:
            if version == self.version:
                self.version, self.spec = version + 1, spec
                if answered:
                    self.claims[who].renewed(sent)

        self.later(there, read)

    def leaders(self) -> list[int]:
        return [n for n, claim in enumerate(self.claims) if claim.holds(self.clock(n))]


DELAYS = st.floats(0, 4)
GAPS = st.one_of(st.floats(0.5, 6), st.floats(0.5, 40))
"""Candidates try often, and now and then one of them is frozen for a while."""
TRIES = st.lists(st.tuples(GAPS, DELAYS, DELAYS, DELAYS, st.booleans()), min_size=12, max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), TRIES), min_size=2, max_size=3))
def test_never_two_at_once(candidates: list[tuple[float, list[Any]]]) -> None:
    world = World([offset for offset, _ in candidates])
    for who, (_, tries) in enumerate(candidates):
        at = 0.0
        for gap, *how in tries:
            at += gap
            world.later(at, functools.partial(world.attempt, who, *how))
    for _ in world.run():
        assert len(world.leaders()) <= 1


def test_who_waits_long_enough_follows_a_silent_holder() -> None:
    claim = Claim("me", SECONDS)
    held = {"holderIdentity": "other", "renewTime": "t1", "leaseDurationSeconds": 15}
    assert not claim.may_take(held, 100)
    assert not claim.may_take(held, 114.9)
    assert claim.may_take(held, 115)
    # Any sign of life counts from when it is seen.
    assert not claim.may_take({**held, "renewTime": "t2"}, 115)
    assert not claim.may_take({**held, "renewTime": "t2"}, 129)
    assert claim.may_take({**held, "renewTime": "t2"}, 130)


def test_a_lease_that_is_gone_is_made_when_its_holder_has_stopped() -> None:
    claim = Claim("me", SECONDS)
    assert claim.may_make(0)
    held = {"holderIdentity": "other", "renewTime": "t1", "leaseDurationSeconds": 15}
    assert not claim.may_take(held, 100)
    assert not claim.may_make(100)
    assert not claim.may_make(114.9)
    assert claim.may_make(115)
    claim.renewed(115)
    assert claim.may_make(116)


def test_a_holder_with_a_longer_lease_is_believed_for_longer() -> None:
    claim = Claim("me", SECONDS)
    held = {"holderIdentity": "other", "renewTime": "t1", "leaseDurationSeconds": 60}
    assert not claim.may_take(held, 0)
    assert not claim.may_take(held, 59)
    assert claim.may_take(held, 60)


def test_what_the_lease_says() -> None:
    claim = Claim("me", SECONDS)
    first = claim.spec({}, "t1")
    assert first == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "t1",
        "renewTime": "t1",
        "leaseTransitions": 0,
    }
    assert claim.spec(first, "t2") == {**first, "renewTime": "t2"}
    taken = Claim("other", SECONDS).spec(first, "t3")
    assert (taken["acquireTime"], taken["leaseTransitions"]) == ("t3", 1)
