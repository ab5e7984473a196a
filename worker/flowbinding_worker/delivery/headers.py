"""Headers of results and dead letters. Pure.

Dead letters carry the headers of Kafka Connect's error reporter, as text, because every console and
every dead-letter tool can show those; or those of Spring's DeadLetterPublishingRecoverer (class
KafkaHeaders, `DLT_…`), whose numbers are big-endian bytes; or both. What these have no word for is
named `flowbinding-…`.
"""

from __future__ import annotations

import struct
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from flowbinding_api import FlowBinding
from flowbinding_api.headers import (
    CONNECT_PREFIX,
    OWN_PREFIX,
    RESULT_BINDING,
    RESULT_SOURCE,
    SPRING_PREFIX,
    is_ours,
)
from flowbinding_api.spec import HeaderStyle
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import Headers
from flowbinding_worker.ports import ProcessingError, Record

MAX_TRACE = 4096
TRACES = (f"{CONNECT_PREFIX}exception.stacktrace", f"{SPRING_PREFIX}exception-stacktrace")
TRUNCATED = f"{OWN_PREFIX}truncated"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes.

    Attributes:
        binding: `<namespace>/<name>`.
        instance: The worker.
        group: Its consumer group.
        flow_id: Id of the flow; empty for backends without ids.
        backend: What runs the flow.
    """

    binding: str
    instance: str
    group: str
    flow_id: str
    backend: str

    @classmethod
    def of(cls, binding: FlowBinding, instance: str) -> Identity:
        """From a manifest."""
        flow = binding.spec.flow
        return cls(binding.key, instance, binding.consumer_group, flow.id or "", flow.backend.value)


def foreign(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers that are not ours: a message that comes by twice does not collect them."""
    return [h for h in headers if not is_ours(h[0])]


def _describes(name: str) -> bool:
    """Whether a header says what a message's value is: its type, or a CloudEvent's attribute."""
    name = name.lower()
    return name == "content-type" or name.startswith("ce_")


def result_headers(who: Identity, record: Record, content_type: str | None = None) -> Headers:
    """The message's own headers, who ran the flow, and for which message.

    What describes the message's value stays behind: the result is another value.

    Args:
        who: Who writes.
        record: The message.
        content_type: Of the result; None for no such header.
    """
    topic, partition = record.partition
    headers = [h for h in foreign(record.headers) if not _describes(h[0])]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return [
        *headers,
        (RESULT_BINDING, who.binding.encode()),
        (RESULT_SOURCE, f"{topic}-{partition}-{record.offset}".encode()),
    ]


def dead_letter_headers(
    who: Identity,
    job: Job,
    error: ProcessingError,
    now_ms: int,
    style: HeaderStyle = HeaderStyle.CONNECT,
) -> Headers:
    """The message's own headers, and everything about why it is here."""
    headers = foreign(job.record.headers)
    texts: dict[str, object] = {}
    if style is not HeaderStyle.SPRING:
        texts |= _connect(who, job.record, error)
    texts |= _own(who, job, error, now_ms)
    if style is not HeaderStyle.CONNECT:
        headers += _spring(who, job.record, error)
    return [*headers, *((name, _text(v)) for name, v in texts.items())]


def _spring(
    who: Identity, record: Record, error: ProcessingError
) -> list[tuple[str, bytes | None]]:
    values = {
        "original-topic": _text(record.partition.topic),
        "original-partition": struct.pack(">i", record.partition.partition),
        "original-offset": struct.pack(">q", record.offset),
        "original-timestamp": struct.pack(">q", record.timestamp_ms),
        "original-timestamp-type": _text(record.timestamp_type),
        "original-consumer-group": _text(who.group),
        "exception-fqcn": _text(_class_name(error)),
        "exception-message": _text(error),
        "exception-stacktrace": _text(_trace(error)),
    }
    if error.__cause__ is not None:
        values["exception-cause-fqcn"] = _text(_class_name(error.__cause__))
    return [(f"{SPRING_PREFIX}{name}", value) for name, value in values.items()]


def _class_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _trace(error: ProcessingError) -> str:
    # Without the chain: a cause's text may quote a request, and a request may hold a secret.
    lines = traceback.format_exception(type(error), error, error.__traceback__, chain=False)
    return "".join(lines)[-MAX_TRACE:]


def _connect(who: Identity, record: Record, error: ProcessingError) -> Mapping[str, object]:
    return {
        f"{CONNECT_PREFIX}{name}": value
        for name, value in {
            "topic": record.partition.topic,
            "partition": record.partition.partition,
            "offset": record.offset,
            "connector.name": who.binding,
            "task.id": who.instance,
            "stage": error.stage,
            "class.name": who.backend,
            "exception.class.name": _class_name(error),
            "exception.message": str(error),
            "exception.stacktrace": _trace(error),
        }.items()
    }


def _own(who: Identity, job: Job, error: ProcessingError, now_ms: int) -> Mapping[str, object]:
    texts: dict[str, object] = {
        "reason": error.reason,
        "attempts": job.attempts,
        "first-failure-ms": job.first_failure_ms or now_ms,
        "last-failure-ms": now_ms,
        "retryable": str(error.retriable).lower(),
        "flow-id": who.flow_id,
        "group": who.group,
        "original-timestamp-ms": job.record.timestamp_ms,
        "response": error.response,
    }
    if error.status is not None:
        texts["http-status"] = error.status
    return {f"{OWN_PREFIX}{name}": value for name, value in texts.items()}


def _text(value: object) -> bytes:
    return str(value).encode(errors="replace")
