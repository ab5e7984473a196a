"""A binding with topics, from what the user wants to what is there: its Deployment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from flowbinding_api.binding import FlowBinding
from flowbinding_operator import desired
from flowbinding_operator.autoscaler import Track
from flowbinding_operator.children import Children, ForeignError
from flowbinding_operator.conditions import View
from flowbinding_operator.kube import Kube, KubeError
from flowbinding_operator.plans import Plan, Wish
from flowbinding_operator.scaling import Decision
from flowbinding_operator.workers import Workers, observe

log = structlog.get_logger(__name__)

Make = Callable[[], Wish]
Live = Mapping[str, Any] | None
"""A Deployment as it is, if there is one."""


class Deployments:
    """Brings Deployments to where they should be, and tells how their workers are.

    Args:
        kube: For Pods.
        children: Writes.
    """

    def __init__(self, kube: Kube, children: Children) -> None:
        self._kube = kube
        self._children = children

    async def find(self, metadata: Mapping[str, Any], *, new: bool = False) -> tuple[Live, str]:
        """The Deployment of the binding with that metadata, and what forbids writing it.

        One that is somebody else's, or that we may not see, counts as none.

        Args:
            metadata: Of the binding.
            new: There should be none yet; should there be one, making it will be refused.
        """
        namespace, name = metadata["namespace"], desired.worker_name(metadata["name"])
        uid = metadata["uid"]
        try:
            return await self._children.find("Deployment", namespace, name, uid, new=new), ""
        except ForeignError as error:
            return None, str(error)
        except KubeError as error:
            if not error.refusal:
                raise
            return None, f"Deployment {namespace}/{name} cannot be read: {error}"

    async def act(self, plan: Plan, make: Make, track: Track, view: View, live: Live) -> View:
        """Write the Deployment, as far as that is possible. Returns `view` with what came of it.

        Args:
            plan: Of a binding with topics.
            make: What the Deployment should be.
            track: Told how many workers are set to run.
            view: What is known so far.
            live: The Deployment as it is.
        """
        binding, decision, refused = plan.binding, view.decision, view.refused
        fresh = False
        if view.missing is not None:
            # New Pods could not start, but what runs may be fine and goes on.
            decision = _no_higher(decision, replicas_of(live) if live else 0)
        try:
            if view.missing is None and not refused:
                live = await self._children.apply(binding.key, plan.config(), make(), live)
            if live is not None and decision.replicas is not None:
                before, live = live, await self._children.scale(live, decision.replicas)
                fresh = before is not live and _has_all(observe(before))
                track.history.replicas = decision.replicas
            # Whatever is missing: the schedule that it was for is no more.
            metadata, name = binding.metadata, desired.worker_name(binding.metadata.name)
            await self._children.prune("CronJob", metadata.namespace, name, str(metadata.uid))
        except ForeignError as error:
            refused = str(error)
        except KubeError as error:
            if not error.refusal:
                raise
            refused = str(error)
        if refused:
            decision = replace(decision, replicas=None)
        # Of Pods that were asked for only now there is nothing to tell yet.
        workers = observe(live) if fresh else await self._workers(binding, live)
        return replace(view, decision=decision, workers=workers, refused=refused)

    async def stop(self, live: Live) -> tuple[Live, str]:
        """Have no workers run. Returns the Deployment, and what forbids it."""
        if live is None:
            return None, ""
        try:
            return await self._children.scale(live, 0), ""
        except KubeError as error:
            if not error.refusal:
                raise
            return live, str(error)

    async def _workers(self, binding: FlowBinding, live: Live) -> Workers:
        workers = observe(live)
        if live is None or _has_all(workers):
            return workers
        # Only now the Pods are worth a request.
        selector = desired.selector(binding.metadata.name)
        pods: Sequence[Mapping[str, Any]] = ()
        try:
            pods = await self._kube.list("Pod", binding.metadata.namespace, selector)
        except KubeError as error:
            if not error.refusal:
                raise
            # They would only say why workers are not ready.
            log.warning("Pods not listed", binding=binding.key, error=str(error))
        return observe(live, pods, now=time.time())


def replicas_of(deployment: Mapping[str, Any]) -> int:
    """How many workers a Deployment asks for."""
    return int(deployment["spec"].get("replicas", 1))


def _has_all(workers: Workers) -> bool:
    return workers.ready >= workers.desired


def _no_higher(decision: Decision, current: int) -> Decision:
    if decision.replicas is None or decision.replicas <= current:
        return decision
    return replace(decision, replicas=current)
