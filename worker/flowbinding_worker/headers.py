"""Headers of results and dead letters. Pure.

Dead letters carry the headers of Kafka Connect's error reporter, as text, because every console and
every dead-letter tool can show those; what Connect has no word for is named `flowbinding-…`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from flowbinding_api import FlowBinding
from flowbinding_worker.job import Job
from flowbinding_worker.kafka_port import Headers
from flowbinding_worker.ports import ProcessingError, Record

CONNECT_PREFIX = "__connect.errors."
OWN_PREFIX = "flowbinding-"
MAX_TRACE = 4096
MAX_RESPONSE = 2048
TRACE = f"{CONNECT_PREFIX}exception.stacktrace"
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
    return [h for h in headers if not h[0].startswith((CONNECT_PREFIX, OWN_PREFIX))]


def result_headers(who: Identity, record: Record) -> Headers:
    """The message's own headers, who ran the flow, and for which message."""
    topic, partition = record.partition
    return [
        *foreign(record.headers),
        (f"{OWN_PREFIX}binding", who.binding.encode()),
        (f"{OWN_PREFIX}source", f"{topic}-{partition}-{record.offset}".encode()),
    ]


def dead_letter_headers(who: Identity, job: Job, error: ProcessingError, now_ms: int) -> Headers:
    """The message's own headers, and everything about why it is here."""
    texts = {**_connect(who, job.record, error), **_own(who, job, error, now_ms)}
    return [*foreign(job.record.headers), *((name, _text(v)) for name, v in texts.items())]


def _connect(who: Identity, record: Record, error: ProcessingError) -> Mapping[str, object]:
    kind = type(error)
    # Without the chain: a cause's text may quote a request, and a request may hold a secret.
    trace = "".join(traceback.format_exception(kind, error, error.__traceback__, chain=False))
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
            "exception.class.name": f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": str(error),
            "exception.stacktrace": trace[-MAX_TRACE:],
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
        "response": error.response[:MAX_RESPONSE],
    }
    if error.status is not None:
        texts["http-status"] = error.status
    return {f"{OWN_PREFIX}{name}": value for name, value in texts.items()}


def _text(value: object) -> bytes:
    return str(value).encode(errors="replace")
