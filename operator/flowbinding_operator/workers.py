"""How the workers are: from a Deployment and, when something is wrong, its Pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flowbinding_api.reasons import Reason
from flowbinding_operator.pod import STARTUP_SECONDS

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
    }
)

SLOW_SECONDS = STARTUP_SECONDS + 60.0
"""A Pod that is not ready after this time is no longer starting: the startup probe, whose allowance
begins when the container runs, has let it pass, or the container has never run."""
SLOW = f"not ready for more than {SLOW_SECONDS / 60:.0f} min: see the Pod's Events and its log"


@dataclass(frozen=True, slots=True)
class Workers:
    """What is known of a binding's worker Pods.

    Attributes:
        desired: What the Deployment asks for.
        replicas: Pods that exist.
        ready: Pods that are ready.
        trouble: What keeps Pods from becoming ready; None when nothing does.
        message: A sentence about it.
    """

    desired: int = 0
    replicas: int = 0
    ready: int = 0
    trouble: Reason | None = None
    message: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.ready >= self.desired == self.replicas


def observe(
    deployment: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]] = (),
    *,
    now: float = 0.0,
) -> Workers:
    """Read a Deployment and, if they were listed, its Pods.

    Args:
        deployment: As the API server holds it; None if there is none.
        pods: Its Pods, as the API server holds them.
        now: The time in seconds since the epoch; only Pods are compared with it.
    """
    if deployment is None:
        return Workers()
    status = deployment.get("status") or {}
    known = pod_trouble(pods) or _deployment_trouble(status) or _slowness(pods, now)
    trouble, message = known or (None, "")
    return Workers(
        desired=(deployment.get("spec") or {}).get("replicas", 1),
        replicas=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        trouble=trouble,
        message=message,
    )


def _deployment_trouble(status: Mapping[str, Any]) -> tuple[Reason, str] | None:
    for condition in status.get("conditions") or ():
        kind, state = condition.get("type"), condition.get("status")
        if (kind, state) in (("ReplicaFailure", "True"), ("Progressing", "False")):
            return Reason.WORKERS_UNAVAILABLE, condition.get("message", "")
    return None


def pod_trouble(pods: Sequence[Mapping[str, Any]]) -> tuple[Reason, str] | None:
    """The worst trouble among the Pods; a missing image before a crash before all else."""
    found = [trouble for pod in pods for trouble in _troubles(pod)]
    order = (Reason.IMAGE_UNAVAILABLE, Reason.WORKERS_CRASHING, Reason.WORKERS_UNAVAILABLE)
    return min(found, key=lambda trouble: order.index(trouble[0]), default=None)


def _slowness(pods: Sequence[Mapping[str, Any]], now: float) -> tuple[Reason, str] | None:
    since = [start for pod in pods if (start := _unready_since(pod)) is not None]
    slow = any(now - start > SLOW_SECONDS for start in since)
    return (Reason.WORKERS_UNAVAILABLE, SLOW) if slow else None


def _unready_since(pod: Mapping[str, Any]) -> float | None:
    """Since when a Pod waits to be ready, in seconds since the epoch; None if it does not."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    if "deletionTimestamp" in metadata or status.get("phase") in ("Failed", "Succeeded"):
        return None
    containers = status.get("containerStatuses") or ()
    if containers and all(container.get("ready") for container in containers):
        return None
    times = [metadata.get("creationTimestamp")]
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            # A worker that was ready all day may be unready for a moment, in a rebalance.
            times.append(condition.get("lastTransitionTime"))
    return max((datetime.fromisoformat(time).timestamp() for time in times if time), default=None)


def _troubles(pod: Mapping[str, Any]) -> Iterator[tuple[Reason, str]]:
    # Without the Pod's name: of many that fail alike another one comes first each time, and a
    # condition whose message changes is a write.
    if "deletionTimestamp" in pod["metadata"]:
        # A worker that drains is not ready, and all is well.
        return
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            yield Reason.WORKERS_UNAVAILABLE, condition.get("message", "unschedulable")
    for container in status.get("containerStatuses") or ():
        if not container.get("ready"):
            yield from _container_troubles(container)


def _container_troubles(container: Mapping[str, Any]) -> Iterator[tuple[Reason, str]]:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if reason in IMAGE_REASONS:
        text = waiting.get("message") or reason
        yield Reason.IMAGE_UNAVAILABLE, f"image {container.get('image', '')}: {text}"
    elif ended and (reason == "CrashLoopBackOff" or ended.get("exitCode")):
        last_words = (ended.get("message") or ended.get("reason") or "").strip()[-512:]
        text = f"exit code {ended.get('exitCode')}: {last_words}"
        yield Reason.WORKERS_CRASHING, text.rstrip(": ")
    elif reason and reason not in ("ContainerCreating", "PodInitializing"):
        yield Reason.WORKERS_UNAVAILABLE, f"{reason}: {waiting.get('message', '')}"
