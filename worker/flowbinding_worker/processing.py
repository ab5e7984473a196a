"""One message's way: decode, filter, run the flow, write the result; or become a dead letter."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import Any, Protocol

import structlog

from flowbinding_api.reasons import Reason
from flowbinding_worker.control.flow_control import Call
from flowbinding_worker.delivery.outbox import ResultLostError
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.sinks import DeadLetters, Output
from flowbinding_worker.delivery.spool import Spool, Stored
from flowbinding_worker.delivery.spool_codec import Kind
from flowbinding_worker.figures import Mean
from flowbinding_worker.job import Job
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import (
    Failure,
    Flow,
    FlowRequest,
    FlowResult,
    Partition,
    ProcessingError,
    Record,
    Stage,
    Written,
)

log = structlog.get_logger(__name__)

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

    def output(self, record: Record, request: FlowRequest, result: FlowResult) -> Written:
        """Key, value and topic of the result."""


class Reader(Protocol):
    """Makes records readable that cannot be decoded as they are; `schemas.AvroReader` does it."""

    async def read(self, record: Record) -> Record:
        """The record as the payload takes it.

        Raises:
            ProcessingError: Classified.
        """

    async def close(self) -> None:
        """Release everything."""


class Processor:
    """Takes messages through all steps; holds no state of any message.

    Args:
        payload: Renders requests and results.
        flow: Runs them.
        output: Writes results; None when they go nowhere.
        dead_letters: Writes what cannot be processed.
        spool: Where both wait while Kafka does not take them.
        metrics: Counts.
        reader: Makes records readable; None when they are as they come.
    """

    def __init__(
        self,
        payload: PayloadPort,
        flow: Flow,
        output: Output | None,
        dead_letters: DeadLetters,
        spool: Spool,
        metrics: Metrics,
        reader: Reader | None = None,
    ) -> None:
        self._payload = payload
        self._flow = flow
        self._output = output
        self._dead_letters = dead_letters
        self._spool = spool
        self._metrics = metrics
        self._reader = reader
        self.seconds_per_message = Mean()
        """Mean time that a message which succeeds holds a slot."""

    async def begin(self, job: Job, call: Call) -> Outcome | Delivery:
        """Run the flow and begin to write its result.

        Args:
            job: The message.
            call: Told how the flow did; not touched when the flow is not called, unless no message
                can be read.

        Returns:
            The result on its way. It may wait for Kafka for hours, on disk: `Delivery.done` raises
            as this does, and ResultLostError if the message has to run again. Or an outcome, when
            there is nothing to write.

        Raises:
            ProcessingError: Classified.
            OutdatedError: The message was taken away meanwhile.
        """
        record = job.record
        if self._reader is not None:
            record = await self._read(self._reader, record, call)
        request = self._payload.request(record)
        if request is None:
            return Outcome.FILTERED
        started = time.monotonic()
        result = await self._call(request, call)
        if job.tracker.retired:
            raise OutdatedError
        _log_answer(job.record, result, time.monotonic() - started)
        if self._output is None:
            return Outcome.SUCCEEDED
        return self._output.write(job, *self._payload.output(record, request, result))

    async def bury(self, job: Job, error: ProcessingError) -> Outcome:
        """Make a message a dead letter; returns when that is acknowledged.

        Raises:
            OutdatedError: The message was taken away meanwhile.
            ResultLostError: It waited on disk, and what was stored of it is lost.
        """
        if job.tracker.retired:
            raise OutdatedError
        delivery = self._dead_letters.write(job, error)
        # Its frames hold the request and the answer.
        error.__traceback__ = None
        if delivery is None:
            log.error("message discarded: dead letters are off", **where(job.record))
            return Outcome.DISCARDED
        await delivery.done
        return self._buried(job, error.reason)

    def stored(self, record: Record) -> Stored | None:
        """What an earlier run of the worker has left on disk for a message, to be delivered."""
        return self._spool.find(record)

    def committed(self, partition: Partition, offset: int) -> None:
        """Nothing needs to be kept on disk for messages before the group's commit."""
        self._spool.passed(partition, offset)

    async def deliver(self, job: Job, stored: Stored) -> Outcome:
        """Write what `stored` has found; returns when it is acknowledged.

        Raises:
            ProcessingError: As for `attempt`.
            ResultLostError: It cannot be read any more.
        """
        if stored.kind is Kind.DEAD_LETTER:
            await self._dead_letters.resume(job, stored).done
            return self._buried(job, stored.reason)
        if self._output is None:
            # It was made when the binding had an output.
            self._spool.settle(stored, delivered=False)
            raise ResultLostError
        await self._output.resume(job, stored).done
        return Outcome.SUCCEEDED

    async def close(self) -> None:
        """Stop writing; what waits on disk stays there."""
        if self._output is not None:
            await self._output.close()
        await self._dead_letters.close()
        await self._spool.close()
        if self._reader is not None:
            await self._reader.close()

    def _buried(self, job: Job, reason: str) -> Outcome:
        self._metrics.dead_letters.labels(reason).inc()
        log.warning("dead letter", reason=reason, **where(job.record))
        return Outcome.DEAD_LETTERED

    @staticmethod
    async def _read(reader: Reader, record: Record, call: Call) -> Record:
        try:
            return await reader.read(record)
        except ProcessingError as error:
            # What is wrong with one message says nothing about the flow.
            if error.failure is Failure.CONFIGURATION:
                call.failed(error, time.monotonic())
            raise

    async def _call(self, request: FlowRequest, call: Call) -> FlowResult:
        started = time.monotonic()
        try:
            result = await self._flow.run(request)
        except ProcessingError as error:
            call.failed(error, time.monotonic())
            raise
        except Exception as error:
            call.failed(unexpected(error, called=True), time.monotonic())
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody but the flow's own code has cancelled this: a fault like any other.
            fault = unexpected(RuntimeError("cancelled by the flow"), called=True)
            call.failed(fault, time.monotonic())
            raise fault from None
        finally:
            self._metrics.flow_seconds.observe(time.monotonic() - started)
        call.succeeded(time.monotonic())
        if result.tokens is not None:
            self._metrics.tokens.labels("input").inc(result.tokens.input)
            self._metrics.tokens.labels("output").inc(result.tokens.output)
        return result


def unexpected(error: Exception, *, called: bool = False) -> ProcessingError:
    """A fault of ours or of a flow's code; one message with it must not stop the others.

    Args:
        error: The fault.
        called: Whether the flow was called: then nobody knows what became of the run.
    """
    return ProcessingError(
        f"unexpected {type(error).__name__}; the worker's log has the details",
        failure=Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=Reason.UNEXPECTED_ERROR,
        # It is this message's problem in any case, so that it leaves in the end.
        ran=True,
        outcome_unknown=called,
    )


def where(record: Record) -> dict[str, Any]:
    """Where a message is, for the log."""
    topic, partition = record.partition
    return {"topic": topic, "partition": partition, "offset": record.offset}


def log_failure(job: Job, error: ProcessingError, delay: float | None) -> None:
    """Say that an attempt failed, and in how many seconds the next one is; None for none."""
    log.warning(
        "attempt failed",
        failure=error.failure.value,
        reason=error.reason,
        error=str(error),
        status=error.status,
        attempts=job.attempts,
        retry_seconds=None if delay is None else round(delay, 3),
        **where(job.record),
    )
    if error.response:
        # It may quote the message.
        log.debug("response", response=error.response, **where(job.record))


def _log_answer(record: Record, result: FlowResult, seconds: float) -> None:
    value, place = result.value, where(record)
    shape = sorted(map(str, value))[:MAX_KEYS] if isinstance(value, dict) else type(value).__name__
    # The logger itself: what stands in for it until it is used takes as long as the line.
    logger = log.bind()
    logger.info("flow answered", answer=shape, seconds=round(seconds, 3), **place)
    logger.debug("answer", value=value, **place)
