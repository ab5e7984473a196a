"""`spec.source.schedule`: runs at certain times, with no topic."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from flowbinding_api.base import ApiModel, Rule
from flowbinding_api.scaling import JOB_CRON, TimeZone

MAX_SCHEDULED_NAME = 45
"""Longest name of a binding with a schedule: a CronJob's name, `<name>-worker`, has at most 52
characters, as Kubernetes adds the time to it for each Job."""


class ConcurrencyPolicy(StrEnum):
    """What happens when a run is due while the one before it still goes on."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class RunSchedule(ApiModel):
    """When a flow runs without any message. The operator makes a CronJob of it."""

    cron: Annotated[str, StringConstraints(max_length=256)]
    """When it runs: minute, hour, day of the month, month, day of the week (0 to 6, 0 is Sunday),
    e.g. 0 2 * * * for each day at 02:00."""
    time_zone: TimeZone = "Etc/UTC"
    """Time zone of cron, as the tz database names it, e.g. Europe/Berlin."""
    value: dict[str, Any] | None = None
    """The message's value, as templates see it; null when absent."""
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    """When a run is due while the one before it still goes on: Forbid leaves the new one out,
    Replace ends the old one, Allow lets both go on."""
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=604800)] | None = None
    """How late a run may begin that could not begin in time; later it is left out. Kubernetes'
    own rule when absent."""
    successful_jobs_history_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Finished runs that succeeded whose Jobs, and logs, are kept."""
    failed_jobs_history_limit: Annotated[int, Field(ge=1, le=100)] = 1
    """The same of runs that failed; of the last one, status tells why."""

    rules: ClassVar[tuple[Rule, ...]] = (
        # Not as a pattern: what the API server says of one that does not match is the pattern.
        Rule(
            f"self.cron.matches(r'{JOB_CRON}')",
            "must be five fields, each with one space between: minute (0-59), hour (0-23), day of"
            " the month (1-31), month (1-12 or JAN-DEC), day of the week (0-6 or SUN-SAT); in each"
            " *, a-b, a,b and */n, e.g. 30 2 * * MON-FRI",
            "cron",
            lambda schedule: re.match(JOB_CRON, schedule["cron"]) is not None,
        ),
    )
