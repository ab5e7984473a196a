"""Tells users how bindings are: the status, and an Event for each transition."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from flowbinding_api.status import ConditionStatus, FlowBindingStatus
from flowbinding_operator import status
from flowbinding_operator.events import event, happenings
from flowbinding_operator.kube import Kube, KubeError
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.store import Cache

log = structlog.get_logger(__name__)

FIRST_WORD_SECONDS = 5.0
"""So long the first status waits for Kafka's answer: without it there is nothing to tell, and of a
thousand new bindings each would cost two writes instead of one."""


@dataclass(slots=True)
class Memory:
    """What is remembered of a binding; all of it may be lost."""

    wrote_at: float | None = None
    ready: bool = True
    seen_at: float | None = None


class Reporter:
    """Writes what is worth a write.

    Args:
        kube: Writes go there.
        bindings: What is written is put in, as the watch brings it later.
        metrics: Show every status, written or not.
        instance: Name of this operator in Events.
        clock: Steady seconds.
    """

    def __init__(
        self,
        kube: Kube,
        bindings: Cache,
        metrics: Metrics,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._bindings = bindings
        self._metrics = metrics
        self._instance = instance
        self._clock = clock
        self._memory: dict[str, Memory] = {}

    def ready(self, key: str) -> bool:
        """Whether a binding was ready when it was looked at last."""
        return self._memory.get(key, Memory()).ready

    def wrote(self, key: str) -> bool:
        """Whether this process has told anything of a binding."""
        return self._memory.get(key, Memory()).wrote_at is not None

    def early(self, key: str, old: FlowBindingStatus) -> bool:
        """Whether nothing has ever been told of a binding, and that may stay so for a moment."""
        if old.conditions:
            return False
        memory, now = self._memory.setdefault(key, Memory()), self._clock()
        if memory.seen_at is None:
            memory.seen_at = now
        return now - memory.seen_at < FIRST_WORD_SECONDS

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding."""
        self._memory.pop(key, None)

    async def report(
        self, key: str, body: Mapping[str, Any], old: FlowBindingStatus, new: FlowBindingStatus
    ) -> bool:
        """Tell a binding's status, if that is worth a write. Whether it is up to date now.

        Args:
            key: The binding.
            body: It as it is.
            old: Its status so far.
            new: What there is to tell.

        Raises:
            KubeError: When the API server does not take it.
        """
        self._metrics.reported(key, new)
        memory = self._memory.setdefault(key, Memory())
        memory.ready = new.conditions[0].status is ConditionStatus.TRUE
        raw = body.get("status") or {}
        changes = status.patch(raw, new)
        if not changes:
            return True
        elapsed = self._clock() - memory.wrote_at if memory.wrote_at is not None else math.inf
        if not status.worth_writing(changes, raw, elapsed):
            return False
        metadata = body["metadata"]
        log.debug("status", binding=key, changes=changes)
        written = await self._kube.patch_status(metadata["namespace"], metadata["name"], changes)
        self._metrics.writes.labels("Status").inc()
        self._bindings.update(key, written)
        memory.wrote_at = self._clock()
        for happening in happenings(old, new):
            name = f"{metadata['name']}.{time.time_ns():x}"
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            item = event(metadata, happening, instance=self._instance, now=now, name=name)
            await self._record(key, item)
        return True

    async def _record(self, key: str, item: Mapping[str, Any]) -> None:
        try:
            await self._kube.create_event(item)
        except KubeError as error:
            # The condition says the same; an Event is not worth another reconcile.
            if not error.ending:
                log.warning("event not recorded", binding=key, error=str(error))
        else:
            self._metrics.events.labels(item["type"], item["reason"]).inc()
            log.info(item["note"], binding=key, reason=item["reason"])
