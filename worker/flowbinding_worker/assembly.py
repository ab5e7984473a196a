"""Puts a worker together from a manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_worker.committer import Committer
from flowbinding_worker.engine import Engine, Parts, Stop
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.headers import Identity
from flowbinding_worker.kafka import ConsumerSettings, KafkaConsumer, kafka_client_options
from flowbinding_worker.kafka_port import ConsumerPort, ProducerPort
from flowbinding_worker.kafka_producer import KafkaProducer
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Flow
from flowbinding_worker.processing import PayloadPort, Processor
from flowbinding_worker.rebalance import Drain, drain_seconds
from flowbinding_worker.retry import RetryPolicy
from flowbinding_worker.sinks import DeadLetters, Output
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.work import Work

GRACE_MARGIN_SECONDS = 15
LAST_STEPS_SECONDS = 10
"""Of the grace period: for the last commit and for leaving the group."""


def make_engine(
    binding: FlowBinding, files: Files, instance: str, metrics: Metrics
) -> tuple[Engine, Stop]:
    """A worker for a binding that has something to run; nothing is connected yet.

    Returns:
        The engine, and what stops it.
    """
    drain = drain_seconds(binding.spec.flow.timeout_seconds)

    def options() -> dict[str, Any]:
        return kafka_client_options(binding.spec.kafka, files)

    settings = ConsumerSettings.of(binding, drain, instance)
    return compose(
        binding,
        instance,
        metrics,
        flow=make_flow(binding, files),
        payload=Payload(binding),
        consumer=KafkaConsumer(settings, options),
        producer=KafkaProducer(options, settings.client_id),
    )


def compose(
    binding: FlowBinding,
    instance: str,
    metrics: Metrics,
    *,
    flow: Flow,
    payload: PayloadPort,
    consumer: ConsumerPort,
    producer: ProducerPort,
) -> tuple[Engine, Stop]:
    """Connect the parts; everything that does I/O is given."""
    spec = binding.spec
    trouble, stop = Trouble(), Stop()
    who = Identity.of(binding, instance)
    output = Output(spec.output.topic, who, producer, trouble) if spec.output else None
    dead_letters = DeadLetters(binding, who, producer, trouble)
    processor = Processor(payload, flow, output, dead_letters, metrics)
    work = Work(spec.concurrency, processor, RetryPolicy(spec.retry), metrics, trouble)
    committer = Committer(consumer, work, processor.seconds_per_message, instance, metrics, trouble)
    drain = drain_seconds(spec.flow.timeout_seconds)
    rebalances = Drain(work, committer, consumer, drain, stop.hurry, metrics)
    _observe(metrics, work)
    parts = Parts(
        flow, work, consumer, producer, committer, rebalances, trouble, stop, grace_seconds(binding)
    )
    return Engine(parts), stop


def grace_seconds(binding: FlowBinding) -> float:
    """How long running messages may take after SIGTERM, before the Pod is killed."""
    worker = binding.spec.worker
    whole = worker.termination_grace_period_seconds
    if whole is None:
        whole = int(binding.spec.flow.timeout_seconds) + GRACE_MARGIN_SECONDS
    return max(whole - LAST_STEPS_SECONDS, whole / 2)


def _observe(metrics: Metrics, work: Work) -> None:
    scheduler = work.scheduler
    gauges: list[tuple[str, str, Callable[[], float]]] = [
        ("in_flight", "Messages that hold a slot.", lambda: scheduler.running),
        ("buffered", "Messages fetched and not running.", lambda: scheduler.buffered),
        ("parked", "Messages waiting for a retry.", lambda: scheduler.parked),
        (
            "circuit_state",
            "0 closed, 1 open, 2 half open, 3 recovering.",
            lambda: work.circuit.state,
        ),
        ("consumer_lag", "Messages of the assigned partitions not done.", lambda: work.lag),
    ]
    for name, text, value in gauges:
        metrics.gauge(name, text, value)
