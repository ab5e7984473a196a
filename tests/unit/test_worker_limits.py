"""How many runs a flow server can take: found out against simulated servers."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbinding_worker.control.limits import Limiter, Ticket

Service = Callable[[Random, float], float]
"""Seconds of one run, for a source of randomness and the time at which it is served."""


def lognormal(mean: float, sigma: float) -> Service:
    return lambda draw, _: draw.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


def with_slow_ones(draw: Random, _: float) -> float:
    """A mean of 1 s, with 5 % slow calls."""
    return 5.75 if draw.random() < 0.05 else 0.75


def cached(draw: Random, _: float) -> float:
    """Half of the answers come from a cache."""
    return draw.lognormvariate(math.log(5.0 if draw.random() < 0.5 else 0.1), 0.3)


SERVICES = {
    "even": lognormal(1.0, 0.3),
    "spread": lognormal(1.0, 0.6),
    "wild": lognormal(1.0, 1.0),
    "slow ones": with_slow_ones,
}


class Server:
    """So many runs at once, the others wait in line; more than `refuses` are told to go away.

    A client with `slots` always has work for as many as its limiter allows.
    """

    def __init__(
        self,
        slots: int,
        service: Service,
        *,
        capacity: Callable[[float], int],
        refuses: float = math.inf,
        seed: int = 1,
    ) -> None:
        self.limiter = Limiter(slots)
        self.now = 0.0
        self.limits: list[tuple[float, int]] = []
        self.done: list[float] = []
        self._service = service
        self._capacity = capacity
        self._refuses = refuses
        self._draw = Random(seed)
        self._line: deque[Ticket] = deque()
        self._events: list[tuple[float, int, Ticket, bool]] = []
        self._running = self._served = self._count = 0

    def run(self, until: Callable[[Server], bool]) -> None:
        while not until(self):
            self._fill()
            self.now, _, ticket, refused = heapq.heappop(self._events)
            self._running -= 1
            if refused:
                self.limiter.throttled(ticket)
            else:
                self._served -= 1
                self.done.append(self.now)
                self.limiter.answered(ticket, self.now)
            self.limits.append((self.now, self.limiter.limit))

    def _fill(self) -> None:
        while self._running < self.limiter.limit:
            self._running += 1
            ticket = self.limiter.begin(self._running, self.now)
            if self._running > self._refuses:
                self._after(0.01, ticket, refused=True)
            else:
                self._line.append(ticket)
        while self._line and self._served < self._capacity(self.now):
            self._served += 1
            seconds = self._service(self._draw, self.now)
            self._after(seconds, self._line.popleft(), refused=False)

    def _after(self, seconds: float, ticket: Ticket, *, refused: bool) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, ticket, refused))

    def limit_since(self, start: float) -> float:
        """The mean limit over time, from `start` on."""
        total = 0.0
        for (begin, limit), (end, _) in zip(self.limits, self.limits[1:], strict=False):
            total += limit * max(0.0, end - max(begin, start))
        return total / (self.now - start)

    def rate_since(self, start: float) -> float:
        """Runs a second, from `start` on."""
        return sum(1 for at in self.done if at > start) / (self.now - start)


def endless(_: float) -> int:
    return 1_000_000


@settings(max_examples=60)
@given(
    slots=st.sampled_from([1, 2, 5, 10, 30, 100, 250]),
    service=st.sampled_from(sorted(SERVICES)),
    seed=st.integers(0, 1 << 30),
)
def test_a_healthy_server_is_never_limited(slots: int, service: str, seed: int) -> None:
    server = Server(slots, SERVICES[service], capacity=endless, seed=seed)
    server.run(lambda s: len(s.done) >= 30 * slots + 300)
    assert {limit for _, limit in server.limits} == {slots}


@pytest.mark.parametrize("slots", [10, 30, 100])
def test_latencies_that_differ_fifty_fold_by_chance_are_hardly_worth_a_trial(slots: int) -> None:
    shares = []
    for seed in range(20):
        server = Server(slots, cached, capacity=endless, seed=seed)
        server.run(lambda s: len(s.done) >= 30 * slots + 300)
        shares.append(server.limit_since(0.0) / slots)
    assert sum(shares) / len(shares) >= 0.97


@pytest.mark.parametrize("service", ["even", "spread", "wild", "slow ones"])
@pytest.mark.parametrize(("slots", "capacity"), [(50, 5), (100, 20), (64, 8), (400, 50)])
def test_a_full_server_gets_about_what_it_can_take(slots: int, capacity: int, service: str) -> None:
    server = Server(slots, SERVICES[service], capacity=lambda _: capacity, seed=slots)
    server.run(lambda s: s.now > 1500)
    assert 0.7 * capacity <= server.limit_since(750) <= 1.3 * capacity
    free = Server(capacity, SERVICES[service], capacity=endless, seed=slots)
    free.run(lambda s: s.now > 1500)
    assert server.rate_since(750) >= 0.95 * free.rate_since(750)


@pytest.mark.parametrize(("before", "after"), [(20, 40), (20, 10), (40, 200)])
def test_it_follows_a_capacity_that_changes(before: int, after: int) -> None:
    server = Server(
        100, SERVICES["spread"], capacity=lambda now: before if now < 400 else after, seed=3
    )
    server.run(lambda s: s.now > 1500)
    expected = min(after, 100)
    assert 0.7 * expected <= server.limit_since(1200) <= 1.3 * expected
    assert server.rate_since(1200) >= 0.9 * expected


@pytest.mark.parametrize("slots", [10, 50, 200])
def test_longer_documents_do_not_throttle_a_healthy_server(slots: int) -> None:
    fast, slow = lognormal(1.0, 0.6), lognormal(3.0, 0.6)
    server = Server(
        slots, lambda draw, now: (fast if now < 100 else slow)(draw, now), capacity=endless, seed=5
    )
    server.run(lambda s: s.now > 1500)
    assert server.limiter.limit == slots
    assert {limit for at, limit in server.limits if at > 750} == {slots}
    assert min(limit for _, limit in server.limits) >= 0.3 * slots, "a trial is no standstill"


@pytest.mark.parametrize(("slots", "most"), [(100, 20), (100, 50), (10, 3)])
def test_a_server_that_refuses_more_is_taken_at_its_word(slots: int, most: int) -> None:
    server = Server(slots, lognormal(1.0, 0.5), capacity=endless, refuses=most, seed=4)
    server.run(lambda s: s.now > 300)
    assert 0.75 * most <= server.limit_since(60) <= most + 1
    assert server.rate_since(60) >= 0.8 * most
    refused = len(server.limits) - len(server.done)
    assert refused <= 0.15 * len(server.done) + slots


def test_throttles_of_one_round_trip_count_once() -> None:
    limiter = Limiter(100)
    tickets = [limiter.begin(n + 1, 0.0) for n in range(100)]
    for ticket in reversed(tickets):
        limiter.throttled(ticket)
    assert limiter.limit == 80
    limiter.throttled(limiter.begin(50, 1.0))
    assert limiter.limit == 40, "from what was in flight, if that was less"


def test_it_rises_again_by_a_step_for_each_round_trip() -> None:
    limiter = Limiter(10)
    limiter.throttled(limiter.begin(5, 0.0))
    assert limiter.limit == 4
    for rounds in range(8):
        tickets = [limiter.begin(limiter.limit, float(rounds)) for _ in range(limiter.limit)]
        for ticket in tickets:
            limiter.answered(ticket, rounds + 0.5)
    assert 7 <= limiter.limit <= 8, "a step for ten answers"
    unused = Limiter(10)
    unused.throttled(unused.begin(10, 0.0))
    for _ in range(100):
        unused.answered(unused.begin(1, 1.0), 1.5)
    assert unused.limit == 8, "what is not used proves nothing"


def test_an_outage_leaves_nothing_behind() -> None:
    limiter = Limiter(10)
    limiter.throttled(limiter.begin(10, 0.0))
    limiter.restore()
    assert limiter.limit == 10


def test_another_upper_bound() -> None:
    limiter = Limiter(10)
    limiter.resize(4)
    assert limiter.limit == 4
    limiter.resize(20)
    assert limiter.limit == 20, "nothing but the bound had limited it"
    limiter.throttled(limiter.begin(20, 0.0))
    limiter.resize(18)
    assert limiter.limit == 16


@settings(max_examples=100)
@given(
    slots=st.integers(1, 40),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["answer", "throttle", "timeout", "drop", "resize", "restore"]),
            st.integers(0, 39),
            st.floats(0.0, 100.0),
        ),
        max_size=400,
    ),
)
def test_any_history_keeps_the_bounds(slots: int, steps: list[tuple[str, int, float]]) -> None:
    limiter = Limiter(slots)
    most, now = slots, 0.0
    running: list[Ticket] = []
    for what, which, seconds in steps:
        while len(running) < limiter.limit:
            running.append(limiter.begin(len(running) + 1, now))
        now += seconds
        ticket = running.pop(which % len(running)) if running else None
        match what:
            case "resize":
                most = which + 1
                limiter.resize(most)
            case "restore":
                limiter.restore()
            case _ if ticket is None:
                pass
            case "answer":
                limiter.answered(ticket, now)
            case "throttle":
                limiter.throttled(ticket)
            case "timeout":
                limiter.timed_out(ticket, now)
            case "drop":
                limiter.dropped(ticket)
        assert 1 <= limiter.limit <= most
