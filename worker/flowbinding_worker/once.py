"""`flowbinding-worker run --once`: one message of a schedule, and its end.

The message goes the way of every other (payload, flow, retries, output, dead letters). Two things
differ, because a Job has to end: a flow that fails for everybody costs attempts like any other
failure, and Kafka is not waited for without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from random import Random
from typing import Any

import structlog

from flowbinding_api import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_worker.assembly import make_processor
from flowbinding_worker.control.flow_control import FlowControl
from flowbinding_worker.control.retry import Backoff, RetryPolicy
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Spool
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.consumer import kafka_client_options
from flowbinding_worker.kafka.port import ProducerPort
from flowbinding_worker.kafka.producer import KafkaProducer
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import (
    Failure,
    Flow,
    Partition,
    ProcessingError,
    Record,
)
from flowbinding_worker.processing import Outcome, log_failure, unexpected, where
from flowbinding_worker.redaction import redact
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.waiting import within

log = structlog.get_logger(__name__)

DELIVERY_SECONDS = 300.0
"""How long Kafka may take for a result or a dead letter before the run has failed."""
CLOSE_SECONDS = 5.0
OLDEST_SECONDS = 8 * 86400
"""A Job's name with an earlier time in it has that number for another reason."""
MAX_LAST_WORDS = 2048

_JOB_TIME = re.compile(r"-(\d{8,9})$")
_MINUTE_MS = 60_000


class RunFailedError(Exception):
    """The message did not end well."""


def scheduled_ms(job: str | None, now_ms: int) -> int:
    """When a run was due, in milliseconds since the epoch.

    The CronJob controller names Jobs `<cronjob>-<minutes since the epoch>`, and tells the time in
    no other way that a Pod could see.

    Args:
        job: Name of the run's Job, if it has one.
        now_ms: The time; the answer for a Job that somebody made by hand.
    """
    found = _JOB_TIME.search(job or "")
    due = int(found[1]) * _MINUTE_MS if found else now_ms
    return due if 0 <= now_ms - due <= OLDEST_SECONDS * 1000 else now_ms


def record_of(binding: FlowBinding, due_ms: int) -> Record:
    """The message of one run: `schedule.value`, as if it had been read from a topic.

    It has no key. Its topic is named after the binding, its partition is 0, and its offset is the
    time in milliseconds, so that each run has an identity of its own, the same in every attempt.
    """
    schedule = binding.spec.source.schedule
    value = schedule.value if schedule is not None else None
    raw = None if value is None else json.dumps(value, ensure_ascii=False).encode()
    name = f"{binding.metadata.namespace}.{binding.metadata.name}"
    return Record(Partition(name, 0), due_ms, None, raw, (), due_ms)


class Once:
    """Takes one message to its end.

    Args:
        binding: With a schedule.
        flow: Runs it.
        producer: Writes its result, or the dead letter.
        instance: Name of this worker in headers.
        backoff_draw: Source of randomness in [0, 1).
    """

    def __init__(
        self,
        binding: FlowBinding,
        flow: Flow,
        producer: ProducerPort,
        instance: str,
        backoff_draw: Random | None = None,
    ) -> None:
        spec, metrics = binding.spec, Metrics()
        self._flow = flow
        self._producer = producer
        self._trouble = Trouble()
        # Nothing on a Job's disk would outlive it.
        spool = Spool(None, 0, metrics.spool_broken.inc)
        self._processor = make_processor(
            binding, instance, metrics, flow, Payload(binding), producer, spool, self._trouble
        )
        self._control = FlowControl(spec.concurrency, spec.rate_limit, time.monotonic())
        self._settings = spec.retry
        self._draw = backoff_draw or Random()  # noqa: S311 - jitter, not a secret
        self._retry = RetryPolicy(spec.retry, self._draw)
        self._backoff = Backoff(spec.retry.initial_backoff_seconds, spec.retry.max_backoff_seconds)

    async def run(self, record: Record) -> Outcome:
        """Process a message until it has ended well.

        Raises:
            RunFailedError: Saying why it has not.
        """
        job = Job(record, Tracker())
        with contextlib.suppress(ProcessingError):
            # `run` raises the same, and that counts as an attempt.
            await self._flow.start()
        while True:
            try:
                return await self._attempt(job)
            except ProcessingError as error:
                failure = error
            except RunFailedError:
                raise
            except Exception as error:
                log.exception("unexpected error", **where(record))
                failure = unexpected(error)
            delay = self._delay(job, failure)
            log_failure(job, failure, delay)
            if delay is None:
                await self._bury(job, failure)
                raise RunFailedError(f"{failure.reason}: {failure}")
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """Release everything, within bounds."""
        await self._processor.close()
        closing = within(self._flow.close(), CLOSE_SECONDS)
        await asyncio.gather(self._producer.stop(), closing, return_exceptions=True)

    async def _attempt(self, job: Job) -> Outcome:
        call = self._control.begin(1, time.monotonic())
        begun = await self._processor.begin(job, call)
        if not isinstance(begun, Delivery):
            return begun
        try:
            await within(asyncio.shield(begun.done), DELIVERY_SECONDS)
        except TimeoutError:
            # Running it again would not help, and a dead letter would wait just as long.
            raise RunFailedError(self._undelivered("its result")) from None
        return Outcome.SUCCEEDED

    async def _bury(self, job: Job, error: ProcessingError) -> None:
        letter = self._retry.letter(job, error)
        try:
            await within(self._processor.bury(job, letter), DELIVERY_SECONDS)
        except TimeoutError:
            text = f"{error.reason}: {error}; and {self._undelivered('its dead letter')}"
            raise RunFailedError(text) from None

    def _delay(self, job: Job, error: ProcessingError) -> float | None:
        job.first_failure_ms = job.first_failure_ms or time.time_ns() // 1_000_000
        if error.failure is not Failure.CONFIGURATION:
            return self._retry.delay(job, error, spared=False, clock=time.monotonic())
        # A worker waits for the repair. A Job is seen to have failed, and the next one tries again.
        job.attempts += 1
        if job.attempts >= self._settings.max_attempts:
            return None
        return self._backoff.delay(job.attempts, self._draw.random())

    def _undelivered(self, what: str) -> str:
        reason = self._trouble.reason or Reason.OUTPUT_UNAVAILABLE.value
        message = self._trouble.message or "no acknowledgement"
        return f"{reason}: {what} could not be written within {DELIVERY_SECONDS:.0f} s: {message}"


async def run_once(
    binding: FlowBinding, files: Files, instance: str, job: str | None
) -> Outcome | None:
    """Run the message of a schedule that is due now.

    Returns:
        How it ended; None when there was nothing to run.

    Raises:
        RunFailedError: It ended badly; saying why.
    """
    if binding.spec.paused or not binding.spec.flow.runs:
        reason = Reason.PAUSED if binding.spec.paused else Reason.SKIPPED
        log.warning("run ended", outcome="skipped", reason=reason.value)
        return None
    redact.learn_url(binding.spec.flow.url or "")

    def options() -> dict[str, Any]:
        return kafka_client_options(binding.spec.kafka, files)

    producer = KafkaProducer(options, f"{binding.consumer_group}-{instance}")
    once = Once(binding, make_flow(binding, files), producer, instance)
    record = record_of(binding, scheduled_ms(job, time.time_ns() // 1_000_000))
    started = time.monotonic()
    try:
        outcome = await once.run(record)
    finally:
        await once.close()
    log.info("run ended", outcome=outcome.value, seconds=round(time.monotonic() - started, 3))
    return outcome


def leave_last_words(path: Path, text: str) -> None:
    """Write why a run failed to where Kubernetes finds a container's last words, if that exists."""
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_text(redact(text)[:MAX_LAST_WORDS], encoding="utf-8")
