"""How the runs of a schedule are: from a CronJob, its Jobs and their Pods to a `status`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_api.status import ConditionType, FlowBindingStatus
from flowbinding_operator.conditions import (
    FALSE,
    TRUE,
    State,
    States,
    flow_configured,
    paused_state,
    provisioned,
)
from flowbinding_operator.pod import JOB_LABEL
from flowbinding_operator.probed import Probed
from flowbinding_operator.references import Missing
from flowbinding_operator.status import with_times
from flowbinding_operator.topics import NOTHING, Provisioned
from flowbinding_operator.workers import pod_trouble

MAX_WORDS = 512

STUCK = frozenset({Reason.IMAGE_UNAVAILABLE, Reason.WORKERS_UNAVAILABLE})
"""What keeps a run from beginning. One that has begun and failed shows as its Job's failure."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What is known of a binding's runs.

    Attributes:
        active: Jobs that go on.
        last_scheduled: When a run was due last, as RFC 3339.
        last_succeeded: When one ended well last, as RFC 3339.
        failed: Name of the newest Job, if it failed and none has succeeded since.
        message: Why, as far as the Job says.
        trouble: What keeps a Job that goes on from running.
        trouble_message: A sentence about it.
    """

    active: tuple[str, ...] = ()
    last_scheduled: str | None = None
    last_succeeded: str | None = None
    failed: str = ""
    message: str = ""
    trouble: Reason | None = None
    trouble_message: str = ""


def observe(cron_job: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]]) -> Runs:
    """Read a CronJob and the Jobs that were made from it, by its schedule or by hand."""
    uid, status = cron_job["metadata"]["uid"], cron_job.get("status") or {}
    own = [job for job in jobs if _owned(job, uid)]
    finished = [(job, *end) for job in own if (end := _end(job)) is not None]
    over = {job["metadata"]["name"] for job, *_ in finished}
    active = sorted(name for job in own if (name := job["metadata"]["name"]) not in over)
    # The CronJob remembers successes for longer than their Jobs are kept.
    good = [status.get("lastSuccessfulTime"), *(at for _, kind, at, _ in finished if kind)]
    succeeded = max((time for time in good if time), key=_moment, default=None)
    runs = Runs(tuple(active), status.get("lastScheduleTime"), succeeded)
    bad = [(at, job["metadata"]["name"], text) for job, kind, at, text in finished if not kind]
    at, name, text = max(bad, key=lambda item: (_moment(item[0]), item[1]), default=("", "", ""))
    if name and (succeeded is None or _moment(at) > _moment(succeeded)):
        return replace(runs, failed=name, message=text)
    return runs


def with_words(runs: Runs, pods: Sequence[Mapping[str, Any]]) -> Runs:
    """The same, with what the Pods of its Jobs have to say.

    Args:
        runs: What is known without them.
        pods: The binding's Pods.
    """
    words = [word for pod in pods if _job_of(pod) == runs.failed for word in _last_words(pod)]
    if runs.failed and words:
        runs = replace(runs, message=words[-1])
    stuck = pod_trouble([pod for pod in pods if _job_of(pod) in runs.active])
    if stuck is not None and stuck[0] in STUCK:
        return replace(runs, trouble=stuck[0], trouble_message=stuck[1])
    return runs


def reworded(runs: Runs, message: str) -> Runs:
    """The same, with what was heard before of the run that failed."""
    return replace(runs, message=message)


@dataclass(frozen=True, slots=True)
class RunView:
    """All that is known of a binding with a schedule.

    Attributes:
        runs: How its runs are.
        missing: What is wrong with the objects that it refers to.
        refused: What forbids writing its children.
        topics: What became of the topics that it asks for.
        probed: What the flow server told the operator; None when it was not asked yet.
    """

    runs: Runs
    missing: Missing | None = None
    refused: str = ""
    topics: Provisioned = NOTHING
    probed: Probed | None = None


def status_of(
    binding: FlowBinding, old: FlowBindingStatus, view: RunView, *, now: str
) -> FlowBindingStatus:
    """The status that tells of `view`.

    Args:
        binding: The resolved binding.
        old: Its status so far: transition times come from there.
        view: What is known.
        now: The time, as RFC 3339.
    """
    generation = binding.metadata.generation
    return FlowBindingStatus(
        observed_generation=generation,
        replicas=len(view.runs.active),
        last_schedule_time=view.runs.last_scheduled,
        last_successful_time=view.runs.last_succeeded,
        flow_version=view.probed.version if view.probed else None,
        reason=_reason(binding, view.runs).value,
        conditions=with_times(_states(binding, view), old, generation, now),
    )


def _reason(binding: FlowBinding, runs: Runs) -> Reason:
    if runs.active:
        return Reason.RUNNING
    if binding.spec.paused:
        return Reason.PAUSED
    if not binding.spec.flow.runs:
        return Reason.SKIPPED
    if runs.failed:
        return Reason.RUN_FAILED
    return Reason.RUN_SUCCEEDED if runs.last_succeeded else Reason.SCHEDULED


def _states(binding: FlowBinding, view: RunView) -> States:
    found: States = {
        ConditionType.FLOW_CONFIGURED: flow_configured(binding, view.missing),
        ConditionType.PAUSED: paused_state(binding.spec.paused),
        ConditionType.DEGRADED: _degraded(view.runs),
    }
    topics = provisioned(view.topics)
    if binding.needs_kafka and binding.spec.kafka.bootstrap_servers is None:
        message = "set spec.kafka.bootstrapServers, or the operator's default"
        topics = State(FALSE, Reason.KAFKA_NOT_CONFIGURED, message)
    if topics is not None:
        found[ConditionType.TOPIC_AVAILABLE] = topics
    if (probed := view.probed) is not None:
        state = State(probed.status, probed.reason, probed.message)
        found[ConditionType.FLOW_REACHABLE] = state
    return {ConditionType.READY: _ready(binding, view, found), **found}


def _ready(binding: FlowBinding, view: RunView, found: States) -> State:
    if view.refused:
        return State(FALSE, Reason.APPLY_REFUSED, view.refused)
    if view.missing is not None:
        return State(FALSE, view.missing.reason, view.missing.message)
    topics = found.get(ConditionType.TOPIC_AVAILABLE)
    if topics is not None and topics.status is not TRUE:
        return topics
    if not binding.spec.flow.runs:
        return State(TRUE, Reason.SKIPPED, found[ConditionType.FLOW_CONFIGURED].message)
    reachable = found.get(ConditionType.FLOW_REACHABLE)
    if reachable is not None and reachable.status is FALSE:
        return reachable
    degraded = found[ConditionType.DEGRADED]
    if degraded.status is TRUE:
        return State(FALSE, degraded.reason, degraded.message)
    return State(TRUE, Reason.PAUSED if binding.spec.paused else Reason.READY)


def _degraded(runs: Runs) -> State:
    if runs.trouble is not None:
        return State(TRUE, runs.trouble, f"a run cannot begin: {runs.trouble_message}")
    if runs.failed:
        text = f"Job {runs.failed} failed: {runs.message or 'its log says why'}"
        return State(TRUE, Reason.RUN_FAILED, text)
    return State(FALSE, Reason.HEALTHY)


def _owned(job: Mapping[str, Any], uid: str) -> bool:
    return any(o.get("uid") == uid for o in job["metadata"].get("ownerReferences") or ())


def _end(job: Mapping[str, Any]) -> tuple[bool, str, str] | None:
    """Whether a Job has succeeded, when it ended, and why; None while it goes on."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            good = condition["type"] == "Complete"
            at = condition.get("lastTransitionTime") or job["metadata"]["creationTimestamp"]
            return good, at, condition.get("message", "")
    return None


def _job_of(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get(JOB_LABEL, ""))


def _last_words(pod: Mapping[str, Any]) -> list[str]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [(item.get("state") or {}).get("terminated") or {} for item in statuses]
    return [text for end in ends if (text := (end.get("message") or "").strip()[-MAX_WORDS:])]


def _moment(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
