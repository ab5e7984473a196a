"""One message's way: decode, filter, run the flow, write the result; or become a dead letter."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, Protocol

import structlog

from flowbinding_worker.circuit import Call
from flowbinding_worker.figures import Mean
from flowbinding_worker.job import Job
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import (
    Failure,
    Flow,
    FlowRequest,
    FlowResult,
    ProcessingError,
    Record,
    Stage,
)
from flowbinding_worker.sinks import DeadLetters, Output

log = structlog.get_logger(__name__)

MAX_WRITE_SECONDS = 1.0
"""A write that takes longer waits for Kafka to recover, which is no measure of the work."""

MAX_KEYS = 20
"""Keys of an answer that the log shows."""


class Outcome(StrEnum):
    """How a message ended."""

    SUCCEEDED = "succeeded"
    FILTERED = "filtered"
    DEAD_LETTERED = "deadLettered"
    DISCARDED = "discarded"


class OutdatedError(Exception):
    """The message belongs to another worker by now: nothing may be written for it."""


class PayloadPort(Protocol):
    """Renders requests and results; `payload.Payload` implements it."""

    def request(self, record: Record) -> FlowRequest | None:
        """The run of one message; None when it is filtered out."""

    def output(
        self, record: Record, request: FlowRequest, result: FlowResult
    ) -> tuple[bytes | None, bytes]:
        """Key and value of the result."""


class Processor:
    """Takes messages through all steps; holds no state of any message.

    Args:
        payload: Renders requests and results.
        flow: Runs them.
        output: Writes results; None when they go nowhere.
        dead_letters: Writes what cannot be processed.
        metrics: Counts.
    """

    def __init__(
        self,
        payload: PayloadPort,
        flow: Flow,
        output: Output | None,
        dead_letters: DeadLetters,
        metrics: Metrics,
    ) -> None:
        self._payload = payload
        self._flow = flow
        self._output = output
        self._dead_letters = dead_letters
        self._metrics = metrics
        self.seconds_per_message = Mean()
        """Mean time that a message which succeeds holds a slot."""

    async def attempt(self, job: Job, call: Call) -> Outcome:
        """Process a message once.

        Args:
            job: The message.
            call: Told how the flow did; not touched when the flow is not called.

        Raises:
            ProcessingError: Classified.
            OutdatedError: The message was taken away meanwhile.
        """
        started = time.monotonic()
        request = self._payload.request(job.record)
        if request is None:
            self.seconds_per_message.add(time.monotonic() - started)
            return Outcome.FILTERED
        result = await self._call(request, call)
        answered = time.monotonic()
        if job.tracker.retired:
            raise OutdatedError
        if self._output is not None:
            key, value = self._payload.output(job.record, request, result)
            await self._output.write(job.record, key, value)
        written = min(time.monotonic() - answered, MAX_WRITE_SECONDS)
        self.seconds_per_message.add(answered - started + written)
        _log_answer(job.record, result, answered - started)
        return Outcome.SUCCEEDED

    async def bury(self, job: Job, error: ProcessingError) -> Outcome:
        """Make a message a dead letter; returns when that is acknowledged.

        Raises:
            OutdatedError: The message was taken away meanwhile.
        """
        if job.tracker.retired:
            raise OutdatedError
        written = await self._dead_letters.write(job, error)
        if not written:
            log.error("message discarded: dead letters are off", **where(job.record))
            return Outcome.DISCARDED
        self._metrics.dead_letters.labels(error.reason).inc()
        log.warning("dead letter", reason=error.reason, **where(job.record))
        return Outcome.DEAD_LETTERED

    async def _call(self, request: FlowRequest, call: Call) -> FlowResult:
        started = time.monotonic()
        try:
            result = await self._flow.run(request)
        except ProcessingError as error:
            call.failed(error, time.monotonic())
            raise
        except Exception as error:
            call.failed(unexpected(error), time.monotonic())
            raise
        finally:
            self._metrics.flow_seconds.observe(time.monotonic() - started)
        call.succeeded()
        return result


def unexpected(error: Exception) -> ProcessingError:
    """A fault of ours or of a flow's code; one message with it must not stop the others."""
    return ProcessingError(
        f"unexpected {type(error).__name__}; the worker's log has the details",
        failure=Failure.TRANSIENT,
        stage=Stage.CALL,
        reason="UnexpectedError",
    )


def where(record: Record) -> dict[str, Any]:
    """Where a message is, for the log."""
    topic, partition = record.partition
    return {"topic": topic, "partition": partition, "offset": record.offset}


def _log_answer(record: Record, result: FlowResult, seconds: float) -> None:
    value = result.value
    shape = sorted(map(str, value))[:MAX_KEYS] if isinstance(value, dict) else type(value).__name__
    log.info("flow answered", answer=shape, seconds=round(seconds, 3), **where(record))
    log.debug("answer", value=value, **where(record))
