"""The operator on an API server and a Kafka cluster in memory."""

from __future__ import annotations

from typing import Any

from flowbinding_api.kafka import Kafka
from flowbinding_operator.autoscaler import Autoscaler
from flowbinding_operator.children import Children
from flowbinding_operator.deployed import Deployments
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.pod import Defaults
from flowbinding_operator.poller import LagWatcher
from flowbinding_operator.probe import Prober
from flowbinding_operator.provisioning import Provisioner
from flowbinding_operator.reconcile import Config, Reconciler
from flowbinding_operator.scheduled import Schedules
from flowbinding_operator.store import Cache, key_of
from operator_fakes import FakeKube, FakeLink, Object, manifest
from topic_fakes import FakeAdmin

KEY = "shop/risk"


class Operator:
    """All parts but kopf and the loops: ticks and reconciles happen when a test says so."""

    def __init__(self) -> None:
        self.kube, self.link = FakeKube(), FakeLink()
        self.link.topic("orders", 24)
        self.now = 1000.0
        self.queued: set[str] = set()
        self.restart()

    def restart(self) -> None:
        clock = lambda: self.now  # noqa: E731
        self.bindings, self.deployments, self.metrics = Cache(), Cache(), Metrics()
        self.autoscaler = Autoscaler(lambda key, _: self.queued.add(key))
        self.lag = LagWatcher(
            self.autoscaler.observe,
            self.metrics,
            seconds=1e9,
            failed=_raise,
            clock=clock,
            connect=lambda _: self.link,
        )
        self.prober = Prober(self.queued.add, seconds=60, clock=clock)
        self.cron_jobs, self.jobs = Cache(), Cache()
        self.provisioner = Provisioner(
            self.queued.add, connect=lambda _: FakeAdmin(self.link), clock=clock
        )
        children = Children(
            self.kube, self.deployments, self.metrics, clock, cron_jobs=self.cron_jobs
        )
        self.kube.on_change = self._watched
        self.reconciler = Reconciler(
            self.kube,
            Config(Kafka(), Defaults(image="worker:1"), instance="pod-1"),
            bindings=self.bindings,
            children=children,
            lag=self.lag,
            autoscaler=self.autoscaler,
            prober=self.prober,
            deployments=Deployments(self.kube, children),
            schedules=Schedules(self.kube, children, self.jobs),
            provisioner=self.provisioner,
            metrics=self.metrics,
            clock=clock,
        )
        for item in list(self.kube.objects.values()):
            self._watched(item)

    def submit(self, **spec: Any) -> None:
        """What `kubectl apply` does."""
        known = self.kube.objects.get(("FlowBinding", "shop", "risk"))
        item = manifest(**spec)
        if known:
            item["metadata"]["generation"] = known["metadata"]["generation"] + 1
            item["status"] = known.get("status", {})
        self._watched(self.kube.put(item))

    def touch(self, item: Object) -> None:
        """A change by somebody else, as the watch brings it."""
        self._watched(self.kube.put(item))

    async def reconcile(self) -> float | None:
        self.queued.discard(KEY)
        self.kube.writes.clear()
        self.kube.reads.clear()
        return await self.reconciler.reconcile(KEY)

    async def poll(self, seconds: float = 2) -> list[str]:
        """One look at Kafka, and what follows. Returns the writes."""
        self.now += seconds
        for poller in self.lag.pollers.values():
            await poller._try_tick()
        writes: list[str] = []
        while KEY in self.queued:
            await self.reconcile()
            writes += self.kube.writes
        return writes

    @property
    def deployment(self) -> Object:
        return self.kube.find("Deployment", "risk-worker")

    @property
    def status(self) -> Object:
        found: Object = self.kube.find("FlowBinding", "risk").get("status", {})
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(c for c in self.status["conditions"] if c["type"] == kind)
        return found["status"], found["reason"]

    def pods(self, ready: int) -> None:
        """The Deployment controller at work."""
        live = self.deployment
        count = live["spec"]["replicas"]
        live["status"] = {"replicas": count, "readyReplicas": min(ready, count)}
        self.touch(live)

    def _watched(self, item: Object) -> None:
        caches = {
            "FlowBinding": self.bindings,
            "Deployment": self.deployments,
            "CronJob": self.cron_jobs,
            "Job": self.jobs,
        }
        if item["kind"] in caches:
            caches[item["kind"]].put(key_of(item), item)
            self.queued.add(KEY)


def _raise(error: BaseException) -> None:
    raise error
