"""Puts a worker together from a manifest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.spec import Format, Guarantee, Ordering, Spool
from flowbinding_worker.committer import Committer
from flowbinding_worker.control.retry import RetryPolicy
from flowbinding_worker.delivery.headers import Identity
from flowbinding_worker.delivery.sinks import DeadLetters, Output, Writing
from flowbinding_worker.delivery.spool import Spool as ResultSpool
from flowbinding_worker.delivery.spool import open_spool
from flowbinding_worker.engine import Engine, Parts, Stop
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.handover.offsets import KafkaOffsets, OffsetsPort
from flowbinding_worker.handover.rebalance import Handover, drain_seconds
from flowbinding_worker.handover.registers import Registers
from flowbinding_worker.kafka.consumer import ConsumerSettings, KafkaConsumer, kafka_client_options
from flowbinding_worker.kafka.port import ConsumerPort, ProducerPort
from flowbinding_worker.kafka.producer import KafkaProducer
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Flow
from flowbinding_worker.processing import PayloadPort, Processor, Reader
from flowbinding_worker.transactions.exactly_once import Transactions
from flowbinding_worker.transactions.group import (
    FencedConsumer,
    TransactionCommitter,
    TransactionHandover,
)
from flowbinding_worker.transactions.kafka import KafkaTransactions
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.work import Work

GRACE_MARGIN_SECONDS = 15
LAST_STEPS_SECONDS = 10
"""Of the grace period: for the last commit and for leaving the group."""


def make_engine(
    binding: FlowBinding, files: Files, instance: str, spool: Path, metrics: Metrics
) -> tuple[Engine, Stop]:
    """A worker for a binding that has something to run; nothing is connected yet.

    Returns:
        The engine, and what stops it.
    """
    spec = binding.spec
    room = spec.output.spool.bytes if spec.output else Spool().bytes
    drain = drain_seconds(binding.spec.flow.timeout_seconds)
    trouble = Trouble()

    def options() -> dict[str, Any]:
        return kafka_client_options(binding.spec.kafka, files)

    settings = ConsumerSettings.of(binding, drain, instance)
    consumer, transactions = KafkaConsumer(settings, options), None
    if spec.output is not None and spec.output.guarantee is Guarantee.EXACTLY_ONCE:
        make_port = partial(KafkaTransactions, options, settings.client_id, settings.group)
        transactions = Transactions(make_port)
        consumer = FencedConsumer(transactions, settings, options)
        room = 0
    return compose(
        binding,
        instance,
        metrics,
        flow=make_flow(binding, files, trouble.note),
        payload=Payload(binding),
        consumer=consumer,
        producer=KafkaProducer(options, settings.client_id, _linger_ms(binding)),
        offsets=KafkaOffsets(options, settings.client_id, settings.topics),
        spool=open_spool(spool, binding.consumer_group, room, metrics.spool_broken.inc),
        transactions=transactions,
        trouble=trouble,
        reader=make_reader(binding, files, metrics),
    )


def make_reader(binding: FlowBinding, files: Files, metrics: Metrics) -> Reader | None:
    """What makes messages readable that cannot be decoded as they are, if they need it."""
    registry = binding.spec.kafka.schema_registry
    if registry is None or binding.spec.source.format is not Format.AVRO:
        return None
    # Only here: httpx takes a while to import, and Local flows do without it.
    from flowbinding_worker.schemas import AvroReader

    return AvroReader(
        registry, files, lambda outcome: metrics.schema_requests.labels(outcome).inc()
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
    offsets: OffsetsPort,
    spool: ResultSpool | None = None,
    transactions: Transactions | None = None,
    trouble: Trouble | None = None,
    reader: Reader | None = None,
) -> tuple[Engine, Stop]:
    """Connect the parts; everything that does I/O is given."""
    spec = binding.spec
    trouble, stop = trouble or Trouble(), Stop()
    spool = spool or ResultSpool(None, 0, metrics.spool_broken.inc)
    processor = make_processor(
        binding, instance, metrics, flow, payload, producer, spool, trouble, transactions, reader
    )
    retry = RetryPolicy(spec.retry)
    work = Work(spec, processor, retry, metrics, trouble, consumer.partitions)
    drain = drain_seconds(spec.flow.timeout_seconds)
    about = (consumer, work, processor.seconds_per_message, instance, metrics, trouble)
    if transactions is None:
        committer = Committer(*about)
        registers = Registers(binding.consumer_group, offsets, metrics)
        rebalances = Handover(work, committer, consumer, registers, drain, stop.hurry, metrics)
    else:
        committer = TransactionCommitter(transactions, *about)
        rebalances = TransactionHandover(
            transactions, work, committer, consumer, drain, stop.hurry, metrics
        )
    _observe(metrics, work, spool)
    parts = Parts(
        flow, work, consumer, producer, committer, rebalances, trouble, stop, grace_seconds(binding)
    )
    return Engine(parts), stop


def _linger_ms(binding: FlowBinding) -> int:
    """No slot waits for a result to be written; but with order by partition, the next message."""
    return 0 if binding.spec.concurrency.ordering is Ordering.PARTITION else 10


def make_processor(
    binding: FlowBinding,
    instance: str,
    metrics: Metrics,
    flow: Flow,
    payload: PayloadPort,
    producer: ProducerPort,
    spool: ResultSpool,
    trouble: Trouble,
    transactions: Transactions | None = None,
    reader: Reader | None = None,
) -> Processor:
    """What takes a message from its bytes to its result or its dead letter."""
    who, to = Identity.of(binding, instance), binding.spec.output
    writing = Writing(binding, who, producer, spool, trouble, transactions)
    output = Output(to.envelope, writing) if to is not None else None
    return Processor(payload, flow, output, DeadLetters(writing), spool, metrics, reader)


def grace_seconds(binding: FlowBinding) -> float:
    """How long running messages may take after SIGTERM, before the Pod is killed."""
    worker = binding.spec.worker
    whole = worker.termination_grace_period_seconds
    if whole is None:
        whole = int(binding.spec.flow.timeout_seconds) + GRACE_MARGIN_SECONDS
    return max(whole - LAST_STEPS_SECONDS, whole / 2)


def _observe(metrics: Metrics, work: Work, spool: ResultSpool) -> None:
    scheduler = work.scheduler
    gauges: list[tuple[str, str, Callable[[], float]]] = [
        ("in_flight", "Messages that hold a slot.", lambda: scheduler.running),
        ("buffered", "Messages fetched and not running.", lambda: scheduler.buffered),
        (
            "held",
            "Messages that another worker runs, which had their partition before.",
            lambda: work.inheritance.held,
        ),
        ("parked", "Messages waiting for a retry.", lambda: scheduler.parked),
        (
            "circuit_state",
            "0 closed, 1 open, 2 half open, 3 recovering.",
            lambda: work.control.state,
        ),
        (
            "concurrency_limit",
            "Runs that may be in flight now: perReplica or less.",
            lambda: work.control.slots,
        ),
        ("spool_bytes", "Disk space that waiting results take.", lambda: spool.bytes),
        (
            "spool_records",
            "Results and dead letters that wait on disk.",
            lambda: spool.waiting.total(),
        ),
        ("consumer_lag", "Messages of the assigned partitions not done.", lambda: work.lag),
    ]
    for name, text, value in gauges:
        metrics.gauge(name, text, value)
