"""How the workers are: from a Deployment and, when something is wrong, its Pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowbinding_api.reasons import Reason

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
    }
)


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
    deployment: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]] = ()
) -> Workers:
    """Read a Deployment and, if they were listed, its Pods."""
    if deployment is None:
        return Workers()
    status = deployment.get("status") or {}
    trouble, message = _pod_trouble(pods) or _deployment_trouble(status) or (None, "")
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


def _pod_trouble(pods: Sequence[Mapping[str, Any]]) -> tuple[Reason, str] | None:
    """The worst trouble among the Pods; a missing image before a crash before all else."""
    found = [trouble for pod in pods for trouble in _troubles(pod)]
    order = (Reason.IMAGE_UNAVAILABLE, Reason.WORKERS_CRASHING, Reason.WORKERS_UNAVAILABLE)
    return min(found, key=lambda trouble: order.index(trouble[0]), default=None)


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
