"""A lag loop on a Kafka cluster in memory."""

from __future__ import annotations

from flowbinding_operator.lag import Observation, Target
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import ClusterPoller
from operator_fakes import FakeLink

TARGET = Target("shop/risk", "shop.risk", ("orders",))


class Bench:
    """A poller on a fake cluster with a clock that is set by hand."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.link.topic("orders", 4)
        self.now = 1000.0
        self.seen: dict[str, Observation] = {}
        self.metrics = Metrics()
        self.poller = ClusterPoller(
            self.link, self.seen.__setitem__, self.metrics, seconds=2, clock=lambda: self.now
        )
        self.poller.watch(TARGET)

    async def tick(self, seconds: float = 2) -> Observation:
        self.now += seconds
        self.link.requests.clear()
        await self.poller._try_tick()
        return self.seen[TARGET.key]

    def count(self, metric: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"flowbinding_operator_{metric}")

    def asked(self, what: str) -> int:
        return sum(request.startswith(what) for request in self.link.requests)
