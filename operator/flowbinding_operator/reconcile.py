"""One binding, from what the user wants to what is there. Level-triggered.

A reconcile reads everything from caches, does what is missing, and may run at any time, any number
of times. When nothing is missing it writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import ValidationError

from flowbinding_api.binding import FlowBinding
from flowbinding_api.errors import FlowBindingError, InvalidBindingError
from flowbinding_api.kafka import Kafka
from flowbinding_api.kafka_options import client_options
from flowbinding_api.reasons import Reason
from flowbinding_api.status import FlowBindingStatus
from flowbinding_operator import desired, runs, status
from flowbinding_operator.autoscaler import Autoscaler, Track, stamp_of
from flowbinding_operator.children import Children, FoundError
from flowbinding_operator.conditions import View
from flowbinding_operator.deployed import Deployments, replicas_of
from flowbinding_operator.kube import Kube, KubeError
from flowbinding_operator.lag import Target, Trouble
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.plans import Given, Plan, Plans, basis_of
from flowbinding_operator.pod import Defaults
from flowbinding_operator.poller import LagWatcher
from flowbinding_operator.probe import Prober, target_of
from flowbinding_operator.probed import Probed, remembered
from flowbinding_operator.provisioning import Provisioner
from flowbinding_operator.referenced import Known, Referenced
from flowbinding_operator.references import Missing, Objects, Reference, secret_reader
from flowbinding_operator.reporter import FIRST_WORD_SECONDS, Reporter
from flowbinding_operator.scaling import History
from flowbinding_operator.scheduled import ACTIVE_RETRY_SECONDS, Schedules
from flowbinding_operator.store import Cache
from flowbinding_operator.topics import NOTHING, Provisioned
from flowbinding_operator.workers import Workers, observe

log = structlog.get_logger(__name__)

MISSING_RETRY_SECONDS = 5.0
"""How soon a missing Secret or ConfigMap that has appeared is seen."""
STARTING_RETRY_SECONDS = 5.0
"""How often Pods are looked at while workers are not ready."""
REFUSED_RETRY_SECONDS = 15.0
REFERENCES_SECONDS = 60.0
"""How soon a change in a Secret or a ConfigMap is seen; they are not watched."""
REPAIR_SECONDS = 8.0
"""The same while the binding is not ready: perhaps somebody is repairing them."""


@dataclass(frozen=True, slots=True)
class Config:
    """What an administrator has set for all bindings."""

    kafka: Kafka
    worker: Defaults
    instance: str = ""


class Reconciler:
    """Reconciles bindings, by key."""

    def __init__(
        self,
        kube: Kube,
        config: Config,
        *,
        bindings: Cache,
        children: Children,
        lag: LagWatcher,
        autoscaler: Autoscaler,
        prober: Prober,
        deployments: Deployments,
        schedules: Schedules,
        provisioner: Provisioner,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plans = Plans(config.kafka, config.worker)
        self._bindings = bindings
        self._children = children
        self._lag = lag
        self._autoscaler = autoscaler
        self._prober = prober
        self._deployments = deployments
        self._schedules = schedules
        self._provisioner = provisioner
        self._metrics = metrics
        self._referenced = Referenced(kube, clock)
        self._reporter = Reporter(kube, bindings, metrics, config.instance, clock)

    async def reconcile(self, key: str) -> float | None:
        """Reconcile one binding. Returns after how many seconds to look again, if at all."""
        before = self._bindings.get(key)
        with self._metrics.reconcile_seconds.time():
            try:
                again = await self._reconcile(key)
                if self._outdated(key, before):
                    again = 0.0
            except FoundError:
                # It may be large: what was begun from none must not scale it.
                self._autoscaler.forget(key)
                again = 0.0
            except KubeError as error:
                if not error.ending:
                    self._metrics.reconciles.labels("error").inc()
                    raise
                again = None
            except Exception:
                self._metrics.reconciles.labels("error").inc()
                raise
        self._metrics.reconciles.labels("success" if again is None else "requeue").inc()
        return again

    def _outdated(self, key: str, before: Mapping[str, Any] | None) -> bool:
        """Whether a binding is another one by now.

        What a write of its status gave may tell so before the watch does, to which it is no news.
        """
        now = self._bindings.get(key)
        if before is None or now is None or now is before:
            return False
        return basis_of(now) != basis_of(before)

    async def _reconcile(self, key: str) -> float | None:
        body = self._bindings.get(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            # The children go with their owner.
            self._forget(key)
            return None
        old = _old_status(body)
        try:
            plan = self._plans.of(key, body)
        except InvalidBindingError as error:
            return await self._invalid(key, body, old, str(error))
        binding, wanted = plan.binding, plan.wanted
        believed = REFERENCES_SECONDS if self._reporter.ready(key) else REPAIR_SECONDS
        known = await self._referenced.read(binding, wanted, believed=believed)
        if binding.spec.source.schedule is not None:
            return await self._reconcile_schedule(plan, body, old, known)
        new, given = not body.get("status"), plan.given(known.objects)
        live, refused = await self._deployments.find(body["metadata"], new=new)
        # Whatever else is missing: "Latest" means the end as it is now, and not after the repair.
        blind = known.missing(tuple(item for item in wanted if item.of_kafka), binding)
        blind = blind or self._watch(binding, given, known.objects, live)
        missing = known.missing(wanted, binding) or given.problem
        track = self._track(binding, old, live)
        observation, decision = track.observation, track.standing()
        view = View(
            observation, decision, Workers(), missing or blind, refused, track.explain(decision)
        )
        if observation is not None and observation.misses_topic:
            self._provisioner.hurry(key)
        topics = self._provision(plan, known, given)
        view = replace(view, probed=self._probe(binding, old, known.objects), topics=topics)
        view = await self._deployments.act(
            plan,
            lambda: plan.worker(desired.deployment, given),
            track,
            view,
            live,
        )
        if await self._report(binding, body, old, view) and observation is not None:
            track.written = stamp_of(observation, decision)
        again = _again(view, wanted, ready=self._reporter.ready(key))
        if new and _unasked(binding, view):
            again = _soonest(again, FIRST_WORD_SECONDS)
        return _soonest(again, self._provisioner.next_look(key))

    async def _reconcile_schedule(
        self,
        plan: Plan,
        body: Mapping[str, Any],
        old: FlowBindingStatus,
        known: Known,
    ) -> float | None:
        """The same for a binding whose source is a schedule: nothing is watched or scaled."""
        binding, wanted, given = plan.binding, plan.wanted, plan.given(known.objects)
        self._autoscaler.forget(binding.key)
        self._unwatch(binding.key)
        missing = known.missing(wanted, binding) or given.problem
        topics = self._provision(plan, known, given)
        view = await self._schedules.act(
            plan, lambda: plan.worker(desired.cron_job, given), missing, topics
        )
        view = replace(view, probed=self._probe(binding, old, known.objects))
        unasked = topics.pending and missing is None and not view.refused
        if not (unasked and self._tells_more(binding, old)):
            new = runs.status_of(binding, old, view, now=_now())
            await self._reporter.report(binding.key, body, old, new)
        again = REFERENCES_SECONDS if wanted else None
        if missing is not None or view.refused:
            again = MISSING_RETRY_SECONDS if missing is not None else REFUSED_RETRY_SECONDS
        elif view.runs.active:
            again = ACTIVE_RETRY_SECONDS
        return _soonest(again, self._provisioner.next_look(binding.key))

    def _provision(self, plan: Plan, known: Known, given: Given) -> Provisioned:
        """Have topics made, if they are asked for; what is known of them."""
        binding, kafka = plan.binding, plan.binding.spec.kafka
        needed = tuple(item for item in plan.wanted if item.of_kafka)
        cannot = kafka.bootstrap_servers is None or known.missing(needed, binding) is not None
        if cannot or not binding.spec.provisioning.create:
            # Another condition says what is missing.
            self._provisioner.forget(binding.key)
            return NOTHING
        try:
            return self._provisioner.want(
                binding,
                given.cluster,
                lambda: client_options(kafka, secret_reader(known.objects)),
            )
        except FlowBindingError as error:
            return Provisioned(asked=True, trouble=Trouble(Reason(error.reason), str(error)))

    async def _invalid(
        self, key: str, body: Mapping[str, Any], old: FlowBindingStatus, message: str
    ) -> float | None:
        """Tell that the spec cannot be understood. Workers run on, unless it says `paused`."""
        # No lag leads to a decision now. The next valid spec starts anew from the Deployment.
        self._autoscaler.forget(key)
        self._unwatch(key)
        self._prober.forget(key)
        self._provisioner.forget(key)
        spec, metadata = body.get("spec"), body["metadata"]
        paused = isinstance(spec, Mapping) and spec.get("paused") is True
        live, refused = await self._deployments.find(metadata)
        if paused:
            # What its source is, the spec does not tell for certain.
            live, kept = await self._deployments.stop(live)
            refused = await self._schedules.stop(metadata) or kept or refused
        new = status.invalid(
            old,
            f"{message}; {refused}" if refused else message,
            observe(live),
            paused=paused,
            stopped=paused and not refused,
            generation=metadata.get("generation"),
            now=_now(),
        )
        await self._reporter.report(key, body, old, new)
        return REFUSED_RETRY_SECONDS if refused else None

    def _probe(
        self, binding: FlowBinding, old: FlowBindingStatus, objects: Objects
    ) -> Probed | None:
        """Have the flow server asked; what is known of it."""
        target = target_of(binding, objects)
        self._prober.watch(binding.key, target)
        if target is None:
            return None
        found = self._prober.result(binding.key)
        return found or remembered(old, binding.metadata.generation)

    def _track(
        self, binding: FlowBinding, old: FlowBindingStatus, live: Mapping[str, Any] | None
    ) -> Track:
        def start() -> History:
            replicas = old.desired_replicas or 0 if live is None else replicas_of(live)
            return History(
                replicas=replicas,
                recommended=old.recommended_replicas,
                seconds_per_message=old.seconds_per_message,
            )

        return self._autoscaler.track(binding.key, binding.spec, start)

    def _watch(
        self, binding: FlowBinding, given: Given, objects: Objects, live: Mapping[str, Any] | None
    ) -> Missing | None:
        """Have the lag watched. Returns what prevents it."""
        kafka = binding.spec.kafka
        if kafka.bootstrap_servers is None:
            self._unwatch(binding.key)
            return None
        cluster = given.cluster
        try:
            # Only for a new client: reading certificates takes a while.
            known = cluster in self._lag.pollers
            options = {} if known else client_options(kafka, secret_reader(objects))
        except FlowBindingError as error:
            self._unwatch(binding.key)
            return Missing(Reason(error.reason), str(error), "spec.kafka")
        workers = observe(live)
        target = Target(
            key=binding.key,
            group=binding.consumer_group,
            topics=binding.spec.source.all_topics,
            start_from=binding.spec.source.start_from,
            workers=workers.replicas,
            ready=workers.ready,
            written=binding.spec.output.topics if binding.spec.output else (),
        )
        self._lag.watch(target, cluster, options)
        return None

    def _unwatch(self, key: str) -> None:
        self._lag.forget(key)
        self._autoscaler.blind(key)
        self._metrics.unobserved(key)

    async def _report(
        self,
        binding: FlowBinding,
        body: Mapping[str, Any],
        old: FlowBindingStatus,
        view: View,
    ) -> bool:
        """Write the status, if need be. Whether it tells of `view` now."""
        early = self._reporter.early(binding.key, old)
        if _unasked(binding, view) and (early or self._tells_more(binding, old)):
            return False
        new = status.status_of(binding, old, view, now=_now(), now_ms=round(time.time() * 1000))
        return await self._reporter.report(binding.key, body, old, new)

    def _tells_more(self, binding: FlowBinding, old: FlowBindingStatus) -> bool:
        """Whether what was known before this process is better than "not asked yet"."""
        restarted = bool(old.conditions) and not self._reporter.wrote(binding.key)
        return restarted and old.observed_generation == binding.metadata.generation

    def _forget(self, key: str) -> None:
        self._lag.forget(key)
        self._autoscaler.forget(key)
        self._prober.forget(key)
        self._plans.forget(key)
        self._children.forget(key)
        self._metrics.forget(key)
        self._referenced.forget(key)
        self._schedules.forget(key)
        self._provisioner.forget(key)
        self._reporter.forget(key)


def _soonest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _again(view: View, wanted: tuple[Reference, ...], *, ready: bool) -> float | None:
    if view.missing is not None:
        return MISSING_RETRY_SECONDS
    if view.refused:
        return REFUSED_RETRY_SECONDS
    if view.workers.ready < view.workers.desired:
        return STARTING_RETRY_SECONDS
    if wanted:
        return REFERENCES_SECONDS if ready else REPAIR_SECONDS
    return None


def _unasked(binding: FlowBinding, view: View) -> bool:
    """Whether all that is missing is the first answer from Kafka."""
    asked = binding.spec.kafka.bootstrap_servers is not None
    understood = asked and view.missing is None and not view.refused
    found = view.observation
    return understood and (found is None or (view.topics.pending and found.trouble is None))


def _old_status(body: Mapping[str, Any]) -> FlowBindingStatus:
    try:
        return FlowBindingStatus.model_validate(body.get("status") or {})
    except ValidationError:
        # Somebody else wrote nonsense into it: start over.
        return FlowBindingStatus()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
