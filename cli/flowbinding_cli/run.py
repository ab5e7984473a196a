"""`flowbinding run`: runs a binding's flow once, now, as its schedule would."""

from __future__ import annotations

import json
import secrets
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.resolve import OVERRIDE_PREFIX
from flowbinding_cli import options
from flowbinding_cli.kube import Kube, Object
from flowbinding_cli.output import Format, emit, named, note, one_line, stdout
from flowbinding_cli.target import WORKER_SUFFIX, Finder, is_file, read_text

VALUE = f"{OVERRIDE_PREFIX}SOURCE__SCHEDULE__VALUE"
"""Variable of the run's Pod that replaces spec.source.schedule.value."""
POLL_SECONDS = 1.0
JOB_LABEL = "batch.kubernetes.io/job-name"
_LETTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        namespace: Of its Job.
        job: Its Job.
        outcome: Running, Succeeded or Failed.
        message: Why it failed; empty otherwise.
    """

    namespace: str
    job: str
    outcome: str
    message: str = ""


@options.given(find=options.kube_finder)
def run(
    binding: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a FlowBinding with a schedule.")
    ],
    value: Annotated[
        str | None, typer.Option(help="The message, a JSON object; the schedule's when absent.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help='The message as text: {"message": TEXT}.')
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="The message from a file with a JSON object (- is stdin).")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show the log until the run has ended.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait; the run itself goes on.")
    ] = 600,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Run a scheduled flow once, now, and show its log and its outcome.

    It is a Job as the schedule makes them, paused or not: same flow, retries, output.
    Exit code 1: it has failed, or has not ended in time.
    """
    message = message_of(value, text, file)
    if is_file(binding):
        raise FlowBindingError(
            f"a manifest runs on this machine with: flowbinding-worker run --once --file {binding}"
        )
    where = find.place
    cron_job = _cron_job(find, binding)
    job = find.kube.create_job(where, job_of(cron_job, binding, message))["metadata"]["name"]
    note(f"Job {where}/{job} created")
    outcome = Outcome(where, job, "Running")
    if wait:
        outcome = follow(find.kube, where, job, timeout)
    if output is not Format.TABLE:
        emit(named(outcome), output)
    elif wait:
        words = f": {outcome.message}" if outcome.message else ""
        stdout().print(f"{outcome.outcome}{words}", soft_wrap=True)
    if wait and outcome.outcome != "Succeeded":
        raise typer.Exit(1)


def message_of(value: str | None, text: str | None, file: str | None) -> Mapping[str, Any] | None:
    """The message that the user said; None for the schedule's own.

    Raises:
        typer.BadParameter: It is said twice, or is no JSON object.
        FlowBindingError: The file cannot be read.
    """
    if len([said for said in (value, text, file) if said is not None]) > 1:
        raise typer.BadParameter("say one of --value, --text and --file")
    if text is not None:
        return {"message": text}
    if file is not None:
        value = read_text(file)
    if value is None:
        return None
    name = "--file" if file is not None else "--value"
    try:
        found = json.loads(value)
    except ValueError as error:
        raise typer.BadParameter(f"{name}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f'{name}: expected a JSON object, e.g. {{"message": "hello"}}')
    return found


def job_of(
    cron_job: Object, binding: str, message: Mapping[str, Any] | None, draw: str = ""
) -> dict[str, Any]:
    """A Job as `kubectl create job --from=cronjob/…` makes it.

    Args:
        cron_job: What the operator made of the schedule.
        binding: Names the Job.
        message: Instead of the schedule's; None for that.
        draw: End of its name; random when empty.
    """
    template, owner = cron_job["spec"]["jobTemplate"], cron_job["metadata"]
    meta = template.get("metadata") or {}
    spec = json.loads(json.dumps(template["spec"]))
    if message is not None:
        container = spec["template"]["spec"]["containers"][0]
        others = [item for item in container.get("env") or () if item["name"] != VALUE]
        said = {"name": VALUE, "value": json.dumps(message, ensure_ascii=False)}
        container["env"] = [*others, said]
    draw = draw or "".join(secrets.choice(_LETTERS) for _ in range(5))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{binding}-run-{draw}",
            "labels": meta.get("labels") or {},
            "annotations": {
                **(meta.get("annotations") or {}),
                "cronjob.kubernetes.io/instantiate": "manual",
            },
            # Without blockOwnerDeletion, which takes a permission that users may not have.
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "CronJob",
                    "name": owner["name"],
                    "uid": owner["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": spec,
    }


def follow(
    kube: Kube,
    namespace: str,
    job: str,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    show: Callable[[str], None] = note,
) -> Outcome:
    """Show a Job's log as it comes, until the Job has ended.

    Args:
        kube: Where it is.
        namespace: Of the Job.
        job: Its name.
        timeout: For so many seconds at most.
        clock: Steady seconds.
        sleep: Waits for so many seconds.
        show: Told each new line.

    Raises:
        FlowBindingError: Somebody has deleted it.
    """
    deadline, shown, waits = clock() + timeout, 0, ""
    while True:
        found = kube.job(namespace, job)
        if found is None:
            raise FlowBindingError(f"Job {namespace}/{job} is not there any more")
        # Asked after the Job: whoever has ended has said everything.
        pods = kube.pods(namespace, f"{JOB_LABEL}={job}")
        lines = [line for pod in pods for line in kube.log(namespace, pod["metadata"]["name"])]
        for line in lines[shown:]:
            show(readable(line))
        shown = max(shown, len(lines))
        outcome = outcome_of(namespace, found, pods)
        if outcome.outcome != "Running":
            return outcome
        if (now_waits := _waits(pods)) and now_waits != waits:
            show(f"the Pod does not start: {now_waits}")
            waits = now_waits
        if clock() >= deadline:
            text = f"not ended within {timeout:g} s; it goes on: kubectl -n {namespace}"
            return Outcome(namespace, job, "Running", f"{text} logs -f job/{job}")
        sleep(POLL_SECONDS)


def readable(line: str) -> str:
    """A line of a worker's log for people; any other line as it is."""
    try:
        entry = json.loads(line)
        level, event = entry.pop("level"), entry.pop("event")
        moment = entry.pop("timestamp")[11:19]
    except (ValueError, KeyError, AttributeError, TypeError):
        return line
    # What the Pod was started with is long, and `flowbinding config` shows it.
    entry.pop("manifest", None)
    rest = " ".join(f"{name}={_short(value)}" for name, value in entry.items())
    return f"{moment} {level:<7} {event}  {rest}".rstrip()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, 300)


def outcome_of(namespace: str, job: Object, pods: list[Object]) -> Outcome:
    """How a Job stands, with its Pods' last words when it has failed."""
    name = job["metadata"]["name"]
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") == "Complete":
            return Outcome(namespace, name, "Succeeded")
        if condition.get("status") == "True" and condition.get("type") == "Failed":
            words = [word for pod in pods for word in _last_words(pod)]
            message = words[-1] if words else condition.get("message", "")
            return Outcome(namespace, name, "Failed", message)
    return Outcome(namespace, name, "Running")


def _cron_job(find: Finder, binding: str) -> Object:
    live, namespace = find.live(binding), find.place
    if not (live["spec"].get("source") or {}).get("schedule"):
        raise FlowBindingError(
            f"{namespace}/{binding} has no schedule: it runs once for each message of its topic."
            f" Send one with `flowbinding produce {binding} --json …`, and see its result with"
            f" `flowbinding tail {binding}`"
        )
    found = find.kube.cron_job(namespace, binding + WORKER_SUFFIX)
    if found is None:
        raise FlowBindingError(
            f"there is no CronJob {namespace}/{binding}{WORKER_SUFFIX} yet:"
            f" `kubectl -n {namespace} describe fb {binding}` says why"
        )
    return found


def _statuses(pod: Object) -> list[Mapping[str, Any]]:
    return [
        item.get("state") or {} for item in (pod.get("status") or {}).get("containerStatuses") or ()
    ]


def _last_words(pod: Object) -> list[str]:
    ends = [state.get("terminated") or {} for state in _statuses(pod)]
    return [text for end in ends if (text := (end.get("message") or "").strip())]


def _waits(pods: list[Object]) -> str:
    """What keeps a Pod from starting, beside the time that it takes."""
    for state in (state for pod in pods for state in _statuses(pod)):
        waiting = state.get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return f"{reason}: {waiting.get('message', '')}".rstrip(": ")
    return ""
