"""A binding with a schedule, from what the user wants to what is there: its CronJob."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from flowbinding_api.binding import FlowBinding
from flowbinding_operator import desired, runs
from flowbinding_operator.children import Children, ForeignError
from flowbinding_operator.kube import Kube, KubeError
from flowbinding_operator.plans import Plan, Wish
from flowbinding_operator.references import Missing
from flowbinding_operator.store import Cache
from flowbinding_operator.topics import Provisioned

log = structlog.get_logger(__name__)

ACTIVE_RETRY_SECONDS = 15.0
"""How often a run's Pods are looked at: one that cannot begin changes nothing that is watched."""

Make = Callable[[], Wish]


class Schedules:
    """Brings CronJobs to where they should be, and tells how their runs are.

    Args:
        kube: For Pods.
        children: Writes.
        jobs: Where the watch puts Jobs, by their own key.
    """

    def __init__(self, kube: Kube, children: Children, jobs: Cache) -> None:
        self._kube = kube
        self._children = children
        self._jobs = jobs
        self._words: dict[str, tuple[str, str]] = {}

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding."""
        self._words.pop(key, None)

    async def act(
        self, plan: Plan, make: Make, missing: Missing | None, topics: Provisioned
    ) -> runs.RunView:
        """Write the CronJob, as far as that is possible. Returns what there is to tell.

        Args:
            plan: Of a binding with a schedule.
            make: What the CronJob should be.
            missing: What is wrong with what the binding refers to. The CronJob is written all the
                same: a run that finds it missing fails, and says so.
            topics: What became of the topics that the binding asks for.
        """
        binding, metadata, refused = plan.binding, plan.binding.metadata, ""
        name, live = desired.worker_name(metadata.name), None
        try:
            live = await self._children.apply_cron_job(binding.key, plan.config(), make())
            uid = str(metadata.uid)
            await self._children.prune("Deployment", metadata.namespace, name, uid)
        except ForeignError as error:
            refused = str(error)
        except KubeError as error:
            if not error.refusal:
                raise
            refused = str(error)
        found = await self._runs(binding, live) if live is not None else runs.Runs()
        return runs.RunView(found, missing, refused, topics)

    async def stop(self, metadata: Mapping[str, Any]) -> str:
        """Have the binding with that metadata begin no more runs. Returns what forbids it."""
        namespace, name = metadata["namespace"], desired.worker_name(metadata["name"])
        try:
            live = await self._children.find("CronJob", namespace, name, metadata["uid"])
            if live is not None:
                await self._children.suspend(live)
        except ForeignError:
            # It is not the binding's.
            return ""
        except KubeError as error:
            if not error.refusal:
                raise
            return str(error)
        return ""

    async def _runs(self, binding: FlowBinding, live: Mapping[str, Any]) -> runs.Runs:
        namespace = binding.metadata.namespace
        jobs = [item for item in self._jobs.all() if item["metadata"]["namespace"] == namespace]
        found = runs.observe(live, jobs)
        known, words = self._words.get(binding.key, ("", ""))
        if found.failed and found.failed == known and not found.active:
            # Nothing more will be said by Pods that have ended, and they may be gone.
            return runs.reworded(found, words)
        if not found.failed and not found.active:
            return found
        selector = desired.selector(binding.metadata.name)
        try:
            pods = await self._kube.list("Pod", namespace, selector)
        except KubeError as error:
            if not error.refusal:
                raise
            # They would only say more about what is known.
            log.warning("Pods not listed", binding=binding.key, error=str(error))
            return found
        found = runs.with_words(found, pods)
        self._words[binding.key] = (found.failed, found.message)
        return found
