"""The worker's seams: what the engine knows of Kafka and of flow servers.

The engine speaks only to these protocols. `kafka` and the modules in `flows` implement them; tests
implement them too. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_worker.redaction import redact


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """A consumed message, as bytes.

    Attributes:
        partition: Where it was read.
        offset: Its offset there.
        key: Its key; None for a null key.
        value: Its value; None for a tombstone.
        headers: Its headers in order; names may repeat.
        timestamp_ms: Kafka's timestamp in milliseconds since the epoch.
        timestamp_type: Whose it is, in Kafka's words: CreateTime or LogAppendTime.
    """

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int
    timestamp_type: str = "CreateTime"


class Failure(StrEnum):
    """What a failed run means for its message and for the others.

    TRANSIENT: may pass by itself; retried with back-off, at most `retry.maxAttempts` runs.
    THROTTLE: the server asks for less; retried after `retry_after_seconds`, and hardly counted as
        a failure of the message: see `retry`.
    POISON: this message can never succeed; a dead letter at once.
    CONFIGURATION: no message can succeed until somebody repairs something; nothing is lost or
        counted, the circuit opens and probes.
    """

    TRANSIENT = "Transient"
    THROTTLE = "Throttle"
    POISON = "Poison"
    CONFIGURATION = "Configuration"


class Stage(StrEnum):
    """Where processing of a message failed, as dead letters say it."""

    DECODE = "DECODE"
    TEMPLATE = "TEMPLATE"
    CALL = "CALL"
    OUTPUT = "OUTPUT"


GATEWAY_TIMEOUTS = frozenset({504, 524})
"""HTTP statuses of proxies that have waited long enough; 524 is Cloudflare's."""


class ProcessingError(FlowBindingError):
    """A message could not be processed.

    Args:
        message: One sentence; secrets are taken out of it, and out of `response`: proxies have been
            seen to write a request's headers into their error pages.
        failure: What it means, see `Failure`.
        stage: Where it happened.
        reason: CamelCase; a configuration failure's reason shows as the binding's condition.
        status: HTTP status, if there was one.
        response: The server's answer, cut to 2 KiB.
        retry_after_seconds: When the server said when to come back.
        ran: Whether the run happened, so that its message may be to blame for the failure; False
            when the server was not reached or did not get so far.
        outcome_unknown: Whether the run was asked for and nobody knows what became of it: it may
            have happened, or still be going on.
    """

    def __init__(
        self,
        message: str,
        *,
        failure: Failure,
        stage: Stage,
        reason: str,
        status: int | None = None,
        response: str = "",
        retry_after_seconds: float | None = None,
        ran: bool = False,
        outcome_unknown: bool = False,
    ) -> None:
        retriable = failure in (Failure.TRANSIENT, Failure.THROTTLE)
        super().__init__(redact(message), reason=reason, retriable=retriable)
        self.failure = failure
        self.stage = stage
        self.status = status
        self.response = redact(response)[:2048]
        self.retry_after_seconds = retry_after_seconds
        self.ran = ran
        self.outcome_unknown = outcome_unknown

    @property
    def timed_out(self) -> bool:
        """Whether the answer took longer than the worker, or a proxy, would wait."""
        return self.reason == Reason.FLOW_TIMEOUT or self.status in GATEWAY_TIMEOUTS


@dataclass(frozen=True, slots=True)
class HttpParts:
    """A request of the HTTP backend, rendered for one message.

    Attributes:
        path: Below the server's address, percent-encoded, with a query if there is one.
        headers: By name; the values are printable ASCII.
        body: JSON data; None for no body.
    """

    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """One run, rendered for one message.

    Attributes:
        request_id: Stable over retries: `<topic>-<partition>-<offset>`.
        input: The flow's input text.
        session_id: Never empty.
        tweaks: Component overrides with all templates rendered.
        http: What the HTTP backend sends; None with any other.
    """

    request_id: str
    input: str
    session_id: str
    tweaks: Mapping[str, Any] = field(default_factory=dict)
    http: HttpParts | None = None


class Tokens(NamedTuple):
    """What a run has used of language models, in tokens."""

    input: int
    output: int


class FlowResult(NamedTuple):
    """A run's answer.

    Attributes:
        value: Text, or JSON data (an object, rows) where the flow answers with data. The empty text
            is an answer.
        run_id: The server's id of the run, for tracing.
        tokens: What it has used, if the server says so.
    """

    value: Any
    run_id: str | None = None
    tokens: Tokens | None = None


class Written(NamedTuple):
    """A result as it is to be written.

    Attributes:
        key: Null or bytes.
        value: Never null.
        topic: Where to.
    """

    key: bytes | None
    value: bytes
    topic: str


Note = Callable[[str, str], None]
"""Told a reason and a sentence about what works, but not as it should."""


class Flow(Protocol):
    """Runs one flow. Implementations are safe for concurrent `run` calls."""

    async def start(self) -> None:
        """Prepare (imports, connections). Readiness waits for it; called again after a failure.

        Raises:
            ProcessingError: CONFIGURATION, when it cannot run until something is repaired. `run`
                then raises the same, and recovers by itself after the repair.
        """

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once.

        Raises:
            ProcessingError: Classified; a timeout after `flow.timeoutSeconds` included.
        """

    async def close(self) -> None:
        """Release everything."""
