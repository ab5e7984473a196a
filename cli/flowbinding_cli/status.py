"""`flowbinding status`: what a binding, its workers and its partitions are doing."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiokafka import TopicPartition
from rich.console import Console
from rich.text import Text

from flowbinding_api import FlowBinding, offsets
from flowbinding_api.errors import FlowBindingError, InvalidBindingError
from flowbinding_api.offsets import Figures, Metadata, MetadataError
from flowbinding_cli import options
from flowbinding_cli.kafka import Cluster
from flowbinding_cli.kube import Object
from flowbinding_cli.letters import ago
from flowbinding_cli.output import Format, emit, named, note, number, one_line, stdout, table
from flowbinding_cli.target import WORKER_SUFFIX, Finder, is_file

WORKER_CLIENT = "flowbinding-"
"""A worker's Kafka client id is this and its name."""
COLOURS = {"True": "green", "False": "red", "Unknown": "yellow"}
BAD_WHEN_TRUE = ("Degraded", "ScalingLimited", "Paused")


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition of a source topic.

    Attributes:
        committed: The group's offset; None without one.
        lag: Messages after it; those done out of order count too, until the ones before are.
        done_beyond: Messages after it that are done already.
        worker: Name of the worker that has it; empty when none has.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    done_beyond: int
    worker: str


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, in its own words: what it wrote beside its last commits.

    Attributes:
        slots: Runs it can have in flight; None before its first commit.
        busy: Share of them in use, 0..1.
        oldest_ms: Timestamp of its oldest unfinished message.
        trouble: What keeps it from working.
    """

    name: str
    partitions: int
    slots: int | None = None
    busy: float | None = None
    seconds_per_message: float | None = None
    oldest_ms: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class KafkaStatus:
    """What Kafka knows of a binding."""

    partitions: list[PartitionStatus] = field(default_factory=list)
    workers: list[WorkerStatus] = field(default_factory=list)


@options.given(find=options.finder)
def status(
    binding: options.Binding,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Show a binding's conditions, its workers in their own words, and its partitions with lag."""
    try:
        target = find.find(binding)
    except InvalidBindingError as error:
        if is_file(binding):
            raise
        # What Kubernetes knows is worth showing all the same.
        _write(None, find.live(binding), KafkaStatus(), output)
        note(f"note: nothing from Kafka: {error}")
        return
    kafka, trouble = KafkaStatus(), ""
    try:
        if target.binding.spec.source.schedule is None:
            kafka = asyncio.run(_kafka_status(target.binding, target.options()))
    except FlowBindingError as error:
        if target.live is None:
            raise
        trouble = str(error)
    _write(target.binding, target.live, kafka, output)
    if trouble:
        note(f"note: nothing from Kafka: {trouble}")


def _write(
    binding: FlowBinding | None, live: Object | None, kafka: KafkaStatus, output: Format
) -> None:
    metadata = (live or {}).get("metadata") or {}
    key = binding.key if binding else f"{metadata.get('namespace')}/{metadata.get('name')}"
    said = (live or {}).get("status") or {}
    if output is Format.TABLE:
        show(stdout(), key, binding, said, kafka)
    else:
        emit({"binding": key, "status": dict(said), "kafka": named(kafka)}, output)


async def _kafka_status(binding: FlowBinding, kafka: dict[str, Any]) -> KafkaStatus:
    group = binding.consumer_group
    async with Cluster(kafka) as cluster:
        partitions = await cluster.partitions(*binding.spec.source.all_topics)
        commits = await cluster.committed(group, partitions)
        members = await cluster.members(group)
        async with cluster.reader(partitions) as reader:
            starts, ends = await reader.starts(), await reader.ends()
    return kafka_status(starts, ends, commits, members)


def kafka_status(
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    commits: Mapping[TopicPartition, tuple[int, str]],
    members: Mapping[str, list[TopicPartition]],
) -> KafkaStatus:
    """Put together what Kafka says. Members are client ids with their partitions."""
    told = {tp: _metadata(*commit) for tp, commit in commits.items()}
    names = {tp: _name(client) for client, own in members.items() for tp in own}
    partitions = []
    for tp, end in sorted(ends.items()):
        committed = commits[tp][0] if tp in commits else None
        lag = max(0, end - max(starts[tp], committed or 0))
        partitions.append(
            PartitionStatus(
                *(tp.topic, tp.partition, committed, end, lag),
                done_beyond=_done_beyond(committed, told.get(tp)),
                worker=names.get(tp, ""),
            )
        )
    workers = [_worker(client, own, told) for client, own in sorted(members.items())]
    return KafkaStatus(partitions, workers)


def _metadata(offset: int, text: str) -> Metadata | None:
    try:
        return offsets.decode(offset, text)
    except MetadataError:
        return None


def _name(client: str) -> str:
    return client.removeprefix(WORKER_CLIENT)


def _done_beyond(committed: int | None, told: Metadata | None) -> int:
    if committed is None or told is None:
        return 0
    return max(0, told.progress.hi_done - committed - len(told.progress.unfinished))


def _worker(
    client: str, own: list[TopicPartition], told: Mapping[TopicPartition, Metadata | None]
) -> WorkerStatus:
    """A member and, of what its partitions' commits say, what it has said itself."""
    name = _name(client)
    instance = zlib.crc32(name.encode())
    said: list[Figures] = [
        metadata.figures
        for tp in own
        if (metadata := told.get(tp)) is not None
        and metadata.figures is not None
        and metadata.figures.instance == instance
    ]
    if not said:
        return WorkerStatus(name, len(own))
    means = [f.seconds_per_message for f in said if f.seconds_per_message is not None]
    oldest = [f.oldest_timestamp_ms for f in said if f.oldest_timestamp_ms is not None]
    trouble = next((f"{f.reason}: {f.message}" for f in said if f.reason), "")
    return WorkerStatus(
        name=name,
        partitions=len(own),
        slots=said[0].slots,
        busy=max(f.busy for f in said),
        seconds_per_message=means[0] if means else None,
        oldest_ms=min(oldest, default=None),
        trouble=trouble,
    )


def show(
    console: Console, key: str, binding: FlowBinding | None, live: Object, kafka: KafkaStatus
) -> None:
    """Print it for people. Of a spec that breaks a rule there is no binding."""
    for name, value in _facts(key, binding, live).items():
        console.print(Text.assemble((f"{name + ':':<10}", "bold"), value), soft_wrap=True)
    if live:
        _section(console, "CONDITION", "STATUS", "REASON", "AGE", "MESSAGE")(
            _condition(item) for item in live.get("conditions") or ()
        )
    if kafka.workers:
        _section(console, "WORKER", "PARTITIONS", "SLOTS", "BUSY", "PER RUN", "OLDEST")(
            _worker_cells(worker) for worker in kafka.workers
        )
        for trouble, number_ in Counter(w.trouble for w in kafka.workers if w.trouble).items():
            console.print(Text(f"{number_} in trouble: {trouble}", "red"), soft_wrap=True)
    if kafka.partitions:
        prefix = f"{key.rpartition('/')[2]}{WORKER_SUFFIX}-"
        _section(console, "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "DONE BEYOND", "WORKER")(
            _partition_cells(item, prefix) for item in kafka.partitions
        )
        total, many = sum(item.lag for item in kafka.partitions), len(kafka.partitions)
        console.print(f"\nLag: {number(total)} in {many} partition{'' if many == 1 else 's'}")


def _facts(key: str, binding: FlowBinding | None, live: Object) -> dict[str, str]:
    """The lines above the tables."""
    facts = {"Binding": key}
    schedule = None
    if binding is not None:
        spec = binding.spec
        schedule = spec.source.schedule
        if schedule is None:
            facts["Topics"] = ", ".join(spec.source.all_topics)
        facts["Flow"] = f"{spec.flow.backend.value} {spec.flow.id or ''}".strip()
        if schedule is None:
            facts["Group"] = binding.consumer_group
        else:
            facts["Schedule"] = f"{schedule.cron} ({schedule.time_zone})"
    if not live:
        return facts
    reason = live.get("reason", "no reason yet")
    if schedule is not None:
        facts["Last run"] = f"{_last_run(live)} ({reason})"
    else:
        facts["Workers"] = (
            f"{live.get('readyReplicas', 0)} ready, {live.get('replicas', 0)} there,"
            f" {live.get('desiredReplicas', '?')} desired ({reason})"
        )
    for item in live.get("conditions") or ():
        # In full: the table has no room for it.
        if item["type"] == "Ready" and item["status"] != "True":
            facts["Ready"] = f"{item['status']}, {item.get('reason', '')}: {item.get('message')}"
    return facts


def _last_run(live: Object) -> str:
    due, good = live.get("lastScheduleTime"), live.get("lastSuccessfulTime")
    if not due and not good:
        return "none yet"
    return f"due {due or 'never yet'}, ended well {good or 'never'}"


def _section(console: Console, *columns: str) -> Any:
    def with_rows(rows: Any) -> None:
        console.print()
        console.print(table(columns, rows))

    return with_rows


def _condition(item: Mapping[str, Any]) -> tuple[str | Text, ...]:
    state = item["status"]
    colour = COLOURS.get(state, "")
    if item["type"] in BAD_WHEN_TRUE:
        colour = {"red": "green", "green": "yellow"}.get(colour, colour)
    return (
        item["type"],
        Text(state, colour),
        item.get("reason", ""),
        _age(item.get("lastTransitionTime", "")),
        one_line(item.get("message", ""), 160),
    )


def _age(text: str) -> str:
    try:
        return ago(time.time() - datetime.fromisoformat(text).timestamp())
    except ValueError:
        return "-"


def _worker_cells(worker: WorkerStatus) -> tuple[str | Text, ...]:
    oldest = worker.oldest_ms
    mean = worker.seconds_per_message
    return (
        worker.name,
        str(worker.partitions),
        number(worker.slots),
        "-" if worker.busy is None else f"{worker.busy:.0%}",
        "-" if mean is None else f"{mean:.3g} s",
        "-" if oldest is None else ago(time.time() - oldest / 1000),
    )


def _partition_cells(item: PartitionStatus, prefix: str) -> tuple[str | Text, ...]:
    return (
        item.topic,
        str(item.partition),
        number(item.committed),
        number(item.end),
        Text(number(item.lag), "yellow" if item.lag else ""),
        number(item.done_beyond),
        item.worker.removeprefix(prefix) or "-",
    )
