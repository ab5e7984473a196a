"""The operator's parts, put together, and the tasks that run them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import structlog

from flowbinding_operator import desired
from flowbinding_operator.autoscaler import Autoscaler
from flowbinding_operator.children import Children, alike
from flowbinding_operator.deployed import Deployments
from flowbinding_operator.kube import Kube
from flowbinding_operator.lag import Observation
from flowbinding_operator.lanes import Lane
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.plans import basis_of
from flowbinding_operator.pod import Defaults
from flowbinding_operator.poller import LagWatcher
from flowbinding_operator.probe import Prober
from flowbinding_operator.provisioning import Provisioner
from flowbinding_operator.queue import WorkQueue
from flowbinding_operator.reconcile import Config, Reconciler
from flowbinding_operator.scheduled import Schedules
from flowbinding_operator.settings import Settings
from flowbinding_operator.store import Cache, binding_key, key_of
from flowbinding_operator.watchdog import Watchdog

log = structlog.get_logger(__name__)

MANAGED_SELECTOR = f"app.kubernetes.io/managed-by={desired.MANAGED_BY}"
WATCHED = ("FlowBinding", "Deployment", "CronJob", "Job")
CHECK_SECONDS = 60.0
"""How often the watches are checked against a list."""
RESYNC_CHECKS = 5
"""Over so many checks, all bindings are reconciled, which finds what has no watch."""
FIRST_SEEN_SECONDS = 5.0
"""So long a Deployment that is seen for the first time is no news: the reconcile that has made it
still goes on, or it was there before and was asked for by its name."""
STALE_SECONDS = 90.0
"""A queue or a lag loop without any progress for that long is dead."""


class App:
    """Everything but kopf and HTTP."""

    def __init__(self, settings: Settings, kube: Kube, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._kube = kube
        self.bindings = Cache()
        self.deployments = Cache()
        self.cron_jobs = Cache()
        self.jobs = Cache()
        self.metrics = metrics or Metrics()
        self.synced = False
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lag = LagWatcher(
            self._observed, self.metrics, seconds=settings.poll_seconds, failed=self._fail
        )
        self.autoscaler = Autoscaler(self.enqueue)
        self.prober = Prober(self.enqueue, seconds=settings.probe_seconds)
        self.provisioner = Provisioner(self.enqueue)
        self.children = Children(kube, self.deployments, self.metrics, cron_jobs=self.cron_jobs)
        reconciler = Reconciler(
            kube,
            _config(settings),
            bindings=self.bindings,
            children=self.children,
            lag=self.lag,
            autoscaler=self.autoscaler,
            prober=self.prober,
            deployments=Deployments(kube, self.children),
            schedules=Schedules(kube, self.children, self.jobs),
            provisioner=self.provisioner,
            metrics=self.metrics,
        )
        self.queue = WorkQueue(reconciler.reconcile, concurrency=settings.concurrency)
        self.metrics.queue_depth.set_function(lambda: self.queue.depth)
        self.metrics.bindings.set_function(lambda: len(self.bindings))
        self._watchdogs = (
            Watchdog("FlowBindings", self.bindings, key_of),
            Watchdog("Deployments", self.deployments, key_of),
            Watchdog("CronJobs", self.cron_jobs, key_of),
            Watchdog("Jobs", self.jobs, key_of),
        )

    def enqueue(self, key: str, lane: Lane = Lane.SOON, delay: float = 0.0) -> None:
        """Have a binding reconciled."""
        self.queue.add(key, delay, lane)

    def binding_event(self, kind: str | None, item: Mapping[str, Any]) -> None:
        """The watch has seen a FlowBinding."""
        key = key_of(item)
        before = self.bindings.get(key)
        if kind == "DELETED":
            self.bindings.drop(key)
        elif not self.bindings.put(key, item):
            return
        going = kind == "DELETED" or "deletionTimestamp" in item["metadata"]
        if before is None or going:
            self.enqueue(key)
        else:
            # A status is the operator's own, whose write may not have been answered yet.
            told = basis_of(before) == basis_of(item)
            self.enqueue(key, Lane.LATER if told else Lane.NOW)

    def child_event(self, kind: str | None, item: Mapping[str, Any], cache: Cache) -> None:
        """A watch has seen a worker Deployment, a CronJob, or a Job of one."""
        key = key_of(item)
        before = cache.get(key) if cache is self.deployments else None
        if kind == "DELETED":
            cache.drop(key)
        elif not cache.put(key, item) or (before is not None and alike(before, item)):
            return
        owner = binding_key(item)
        if owner is not None:
            if cache is self.deployments and before is None and kind != "DELETED":
                self.enqueue(owner, Lane.LATER, FIRST_SEEN_SECONDS)
            else:
                self.enqueue(owner)

    def resync(self, count: int) -> None:
        """Have some bindings reconciled that nothing may have changed of: other ones each time.

        Not all at once, as each may cost a request.
        """
        for key in self.bindings.all_keys()[count % RESYNC_CHECKS :: RESYNC_CHECKS]:
            self.enqueue(key, Lane.LATER)

    async def run(self, *others: Awaitable[None]) -> None:
        """Run until any part ends; only one of `others` may do so on purpose.

        Raises:
            Exception: Whatever ended a part.
        """
        tasks = [asyncio.ensure_future(other) for other in others]
        own = [asyncio.create_task(self.queue.run()), asyncio.create_task(self._check_watches())]
        own.append(asyncio.create_task(self.prober.run()))
        own.append(asyncio.create_task(self._watch_loop()))
        try:
            await asyncio.wait([*tasks, *own, self._fatal], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*own, *tasks):
                task.cancel()
            results = await asyncio.gather(*own, *tasks, return_exceptions=True)
            await self.provisioner.close()
            await self.lag.close()
        if self._fatal.done():
            self._fatal.result()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def problems(self) -> list[str]:
        """What makes this process not worth keeping."""
        now = time.monotonic()
        found = [dog.problem for dog in self._watchdogs if dog.problem]
        if now - self.queue.last_progress > STALE_SECONDS:
            found.append("the work queue makes no progress")
        for cluster, poller in self.lag.pollers.items():
            if now - poller.last_tick > STALE_SECONDS:
                found.append(f"the lag loop of {cluster.partition('#')[0]} makes no progress")
        return found

    def unready(self) -> list[str]:
        """What keeps it from doing its work."""
        return [*self.problems(), *([] if self.synced else ["not started yet"])]

    def _observed(self, key: str, observation: Observation) -> None:
        self.metrics.observed(key, observation, time.time())
        try:
            self.autoscaler.observe(key, observation)
        except Exception:
            # Nothing is known to raise here. Should anything, one binding must not end the loop of
            # its cluster, and with it this process, again and again, for all the others.
            log.exception("no decision: replicas stay as they are", binding=key)

    def _fail(self, error: BaseException) -> None:
        if not self._fatal.done():
            self._fatal.set_exception(error)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1
            await asyncio.sleep(1)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))

    async def _check_watches(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self._check()
            except Exception as error:  # noqa: BLE001 - the API server may be away for a while
                log.warning("watches not checked", error=str(error))
            count += 1
            self.resync(count)

    async def _check(self) -> None:
        for dog, kind in zip(self._watchdogs, WATCHED, strict=True):
            selector = "" if kind == "FlowBinding" else MANAGED_SELECTOR
            found: list[Mapping[str, Any]] = []
            for namespace in self._settings.namespaces or (None,):
                found += await self._kube.list(kind, namespace, selector, metadata_only=True)
            dog.compare(found)


def _config(settings: Settings) -> Config:
    return Config(
        kafka=settings.default_kafka,
        worker=Defaults(
            image=settings.worker_image,
            image_pull_policy=settings.worker_image_pull_policy,
            image_pull_secrets=settings.worker_image_pull_secrets,
            resources=settings.worker_resources,
        ),
        instance=settings.instance,
    )
