"""`spec`: a topic, a flow, and what happens in between."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from flowbinding_api.base import (
    ApiModel,
    Expression,
    ObjectName,
    ResultTemplate,
    Rule,
    SizeLimit,
    TopicName,
    size_in_bytes,
)
from flowbinding_api.flow import Flow
from flowbinding_api.kafka import Kafka
from flowbinding_api.provisioning import Provisioning
from flowbinding_api.routes import Route
from flowbinding_api.scaling import Scaling
from flowbinding_api.schedule import RunSchedule
from flowbinding_api.worker import Worker

Seconds = Annotated[float, Field(gt=0, le=86400)]


class StartFrom(StrEnum):
    """Where a consumer group without committed offsets begins."""

    EARLIEST = "Earliest"
    LATEST = "Latest"


class Format(StrEnum):
    """How a message's bytes become `value`."""

    AUTO = "Auto"
    JSON = "JSON"
    TEXT = "Text"
    BYTES = "Bytes"
    CLOUD_EVENTS = "CloudEvents"
    REPORT = "Report"
    AVRO = "Avro"
    JSON_SCHEMA = "JsonSchema"


class Ordering(StrEnum):
    """Which messages never overtake each other."""

    KEY = "Key"
    PARTITION = "Partition"
    NONE = "None"


class OnTimeout(StrEnum):
    """What becomes of a message whose run has an unknown outcome."""

    RETRY = "Retry"
    DEAD_LETTER = "DeadLetter"


REPLAY_SUFFIX = ".replay"
"""Ends the name of the group that keeps the progress of a binding's replays."""

REPLAY_GROUPS = "such groups keep which dead letters of another binding were replayed"


class Source(ApiModel):
    """Where messages come from."""

    topic: TopicName | None = None
    """The Kafka topic to consume."""
    topics: Annotated[list[TopicName], Field(min_length=1, max_length=64)] | None = None
    """Several Kafka topics to consume as one."""
    schedule: RunSchedule | None = None
    """Runs the flow once at each of certain times, instead of for each message."""
    consumer_group: Annotated[str, StringConstraints(min_length=1, max_length=249)] | None = None
    """Kafka consumer group; <namespace>.<name> when absent. Cannot be changed."""
    start_from: StartFrom = StartFrom.EARLIEST
    """Where a group without committed offsets begins. The operator commits that position when the
    binding is created."""
    format: Format = Format.AUTO
    """How bytes become `value`. Auto: JSON when it parses, else {"message": text}; the data of a
    CloudEvent whose headers say that it is one. CloudEvents, Report: the data of the event, or the
    report, and nothing else is taken; `event` in templates has what the envelope says. Avro: the
    value with the number of its schema before it, which spec.kafka.schemaRegistry is asked for.
    JsonSchema: JSON with such a number before it."""
    filter: Expression | None = None
    """Jinja2 expression; a message for which it is false is done without a run, and counted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.topic), has(self.topics), has(self.schedule)].exists_one(x, x)",
            "set exactly one of topic, topics and schedule",
            holds=lambda source: (
                [source[name] is None for name in ("topic", "topics", "schedule")].count(False) == 1
            ),
        ),
        Rule(
            "has(self.consumerGroup) == has(oldSelf.consumerGroup) && "
            "(!has(self.consumerGroup) || self.consumerGroup == oldSelf.consumerGroup)",
            "cannot be changed; create a new binding",
            "consumerGroup",
        ),
        Rule(
            f"!has(self.consumerGroup) || !self.consumerGroup.endsWith('{REPLAY_SUFFIX}')",
            f"must not end with {REPLAY_SUFFIX}: {REPLAY_GROUPS}",
            "consumerGroup",
            lambda source: not (source["consumerGroup"] or "").endswith(REPLAY_SUFFIX),
        ),
    )

    @property
    def all_topics(self) -> tuple[str, ...]:
        """Every topic that is consumed, without repeats, in the user's order."""
        names = [self.topic] if self.topic is not None else self.topics or []
        return tuple(dict.fromkeys(names))


class Envelope(StrEnum):
    """What a result is wrapped in."""

    NONE = "None"
    REPORT = "Report"
    CLOUD_EVENTS = "CloudEvents"


class HeaderStyle(StrEnum):
    """Whose names the headers of dead letters have."""

    CONNECT = "Connect"
    SPRING = "Spring"
    BOTH = "Both"


class Spool(ApiModel):
    """Where results and dead letters wait, on disk, while Kafka does not take them."""

    size_limit: SizeLimit = "256Mi"
    """Disk space of each worker for them. When it is used up, results wait in memory and nothing
    more runs. "0" for none."""
    storage_class_name: ObjectName | None = None
    """A volume of this class for each worker; the node's own disk (emptyDir) when absent."""

    @property
    def bytes(self) -> int:
        """`size_limit` in bytes."""
        return size_in_bytes(self.size_limit)


class Guarantee(StrEnum):
    """How often a result may be in the output topic."""

    AT_LEAST_ONCE = "AtLeastOnce"
    EXACTLY_ONCE = "ExactlyOnce"


class Output(ApiModel):
    """Where results go."""

    topic: TopicName
    """Topic of the results; with routes, of those that none of them takes."""
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    """How often a message's result, or dead letter, may be there after a crash. ExactlyOnce: once,
    for readers with isolation.level=read_committed, by Kafka transactions; results wait in memory
    instead of on disk, and a rebalance waits for running calls. The flow itself may still run
    again."""
    key: ResultTemplate = "{{ key }}"
    """Template of the result's key; the message's own bytes by default, null if they are null."""
    value: ResultTemplate | None = None
    """Template of the result's value. Default: JSON with result, source, binding, flow, sessionId
    and timestamp."""
    envelope: Envelope = Envelope.NONE
    """What the result is wrapped in: the flow's answer, or what the value's template makes of it.
    Report: JSON with timestamp, source, topic and report. CloudEvents: a structured event in
    JSON."""
    routes: Annotated[list[Route], Field(max_length=32)] = Field(default_factory=list)
    """Topics for certain results: the first route whose `when` holds takes a result. One that
    cannot be told makes the message a dead letter."""
    spool: Spool = Spool()
    """Where results and dead letters wait, on disk, while Kafka does not take them."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that results may go to, without repeats."""
        return tuple(dict.fromkeys([self.topic, *(route.topic for route in self.routes)]))


class DeadLetter(ApiModel):
    """Where messages go that cannot be processed."""

    enabled: bool = True
    """False: such messages are logged, counted and skipped."""
    topic: TopicName | None = None
    """Dead-letter topic; <source topic>.<binding>.dlq when absent."""
    header_style: HeaderStyle = HeaderStyle.CONNECT
    """Names of the headers that say why: those of Kafka Connect's error reporter, as text; those
    of Spring's dead letters, with numbers as bytes; or both. flowbinding-... ones are always
    there."""
    flood_guard: bool = True
    """Stop a partition when more than half of its last 200 messages, or 100 in a row, became dead
    letters. One message a minute is tried from then on; the first that succeeds ends it."""


class Retry(ApiModel):
    """How often and when a failed run is tried again: exponential back-off with full jitter."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Runs of one message, the first one included, before it becomes a dead letter."""
    initial_backoff_seconds: Seconds = 1
    """Upper bound of the first wait; it doubles from attempt to attempt."""
    max_backoff_seconds: Seconds = 60
    """Upper bound of every wait."""
    max_elapsed_seconds: Seconds | None = None
    """How long a message is tried again, from its first failure on, before it becomes a dead
    letter. Time in which the flow failed for all messages does not count. No limit when absent."""
    on_timeout: OnTimeout = OnTimeout.RETRY
    """What becomes of a message whose run may have happened although no answer came: no answer in
    time, 504, a connection lost after the request was sent. Retry runs it again; DeadLetter is for
    flows that must not run twice."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.initialBackoffSeconds <= self.maxBackoffSeconds",
            "must not exceed maxBackoffSeconds",
            "initialBackoffSeconds",
            lambda retry: bool(retry["initialBackoffSeconds"] <= retry["maxBackoffSeconds"]),
        ),
    )


class Concurrency(ApiModel):
    """How many runs happen at once."""

    per_replica: Annotated[int, Field(ge=1, le=10000)] = 10
    """Runs in flight in one worker. Fewer while the server asks for less, or while more in flight
    only makes it slower."""
    max_in_flight: Annotated[int, Field(ge=1, le=1000000)] | None = None
    """Runs in flight in all workers together: each takes the share that it has of the partitions,
    rounded down, and at least 1. No limit when absent."""
    ordering: Ordering = Ordering.KEY
    """Which messages never overtake each other: those of one key, of one partition, or none."""


class RateLimit(ApiModel):
    """How many runs begin in a time."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10000000)] | None = None
    """Runs of all workers together, retries included, spread evenly: each worker takes the share
    that it has of the partitions. No limit when absent."""


def _consumes(topic: str) -> str:
    """CEL: whether `topic` is one of the source topics."""
    source = "self.source"
    return (
        f"(has({source}.topic) && {topic} == {source}.topic"
        f" || has({source}.topics) && {source}.topics.exists(t, t == {topic}))"
    )


def _consumed(spec: Mapping[str, Any], topic: str | None) -> bool:
    source = spec["source"]
    return topic is not None and topic in [source.get("topic"), *(source.get("topics") or [])]


class FlowBindingSpec(ApiModel):
    """What a user asks for."""

    paused: bool = False
    """True: no workers run; the lag is still watched."""
    source: Source
    """Where messages come from."""
    kafka: Kafka = Kafka()
    """The Kafka cluster; the operator's default when absent."""
    flow: Flow
    """The flow that runs once for each message."""
    output: Output | None = None
    """Where results go; nowhere when absent."""
    dead_letter: DeadLetter = DeadLetter()
    """Where messages go that cannot be processed."""
    retry: Retry = Retry()
    """How often and when a failed run is tried again."""
    concurrency: Concurrency = Concurrency()
    """How many runs happen at once."""
    rate_limit: RateLimit = RateLimit()
    """How many runs begin in a time."""
    provisioning: Provisioning = Provisioning()
    """Topics that the operator makes; none by default."""
    scaling: Scaling = Scaling()
    """How many workers run."""
    worker: Worker = Worker()
    """The worker Pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.output) || !" + _consumes("self.output.topic"),
            "must not be a source topic: every result would run the flow again",
            "output.topic",
            lambda spec: not _consumed(spec, (spec["output"] or {}).get("topic")),
        ),
        Rule(
            "!has(self.output) || !has(self.output.routes)"
            " || !self.output.routes.exists(r, " + _consumes("r.topic") + ")",
            "must not go to a source topic: every result there would run the flow again",
            "output.routes",
            lambda spec: (
                not any(
                    _consumed(spec, route["topic"])
                    for route in (spec["output"] or {}).get("routes") or []
                )
            ),
        ),
        Rule(
            "!has(self.deadLetter.topic) || !" + _consumes("self.deadLetter.topic"),
            "must not be a source topic: every dead letter would run the flow again",
            "deadLetter.topic",
            lambda spec: not _consumed(spec, spec["deadLetter"].get("topic")),
        ),
        Rule(
            "self.source.format != 'Avro' || has(self.kafka) && has(self.kafka.schemaRegistry)",
            "required by source.format Avro",
            "kafka.schemaRegistry",
            lambda spec: (
                spec["source"].get("format") != "Avro"
                or spec["kafka"].get("schemaRegistry") is not None
            ),
        ),
        Rule(
            "!has(self.source.schedule) || !(self.source.format in ['Avro', 'JsonSchema'])",
            "with a schedule, the message is what source.schedule.value says: JSON",
            "source.format",
            lambda spec: (
                spec["source"].get("schedule") is None
                or spec["source"].get("format") not in ("Avro", "JsonSchema")
            ),
        ),
        Rule(
            "!has(self.source.schedule) || !has(self.output)"
            " || self.output.guarantee != 'ExactlyOnce'",
            "ExactlyOnce needs offsets to commit: not allowed with source.schedule",
            "output.guarantee",
            lambda spec: (
                spec["source"].get("schedule") is None
                or (spec["output"] or {}).get("guarantee") != "ExactlyOnce"
            ),
        ),
    )
