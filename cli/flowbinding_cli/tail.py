"""`flowbinding tail`: results and dead letters of a binding as they come."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import typer
from aiokafka import ConsumerRecord
from rich.text import Text

from flowbinding_api import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.headers import RESULT_BINDING, RESULT_SOURCE
from flowbinding_cli import options
from flowbinding_cli.kafka import Cluster, Offsets, Reader, no_topic
from flowbinding_cli.letters import iso
from flowbinding_cli.output import Format, flat, readable, stdout
from flowbinding_cli.scan import letter_of
from flowbinding_cli.target import Finder

Line = dict[str, Any]
"""One result or dead letter as plain data."""


@options.given(find=options.finder)
def tail(
    binding: options.Binding,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All that is there, then what comes.")
    ] = False,
    last: Annotated[
        int | None, typer.Option(min=1, help="The last so many that are there, then what comes.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Go on when all that is there is shown.")] = True,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Show results (green) and dead letters (red) of a binding, decoded, with their sources."""
    target = find.find(binding)
    kafka = target.options()
    asyncio.run(_tail(target.binding, kafka, output, last, follow=follow, beginning=from_beginning))


async def _tail(
    binding: FlowBinding,
    kafka: dict[str, Any],
    output: Format,
    last: int | None,
    *,
    follow: bool,
    beginning: bool,
) -> None:
    topics = topics_of(binding)
    async with Cluster(kafka) as cluster:
        partitions = await cluster.partitions(*topics)
        missing = [topic for topic in topics if topic not in {tp.topic for tp in partitions}]
        if not partitions:
            raise no_topic(missing)
        async with cluster.reader(partitions) as reader:
            lines = lines_of(binding, reader, last, follow=follow, beginning=beginning)
            async with aclosing(lines):
                async for line in lines:
                    print_line(line, output)


def topics_of(binding: FlowBinding) -> list[str]:
    """Where the results and dead letters of a binding go.

    Raises:
        FlowBindingError: Nowhere.
    """
    topics = list(binding.written_topics)
    if not topics:
        raise FlowBindingError(f"{binding.key} writes nothing: it has no output, no dead letters")
    return topics


async def lines_of(
    binding: FlowBinding, reader: Reader, last: int | None, *, follow: bool, beginning: bool
) -> AsyncGenerator[Line, None]:
    """The binding's results and dead letters.

    Args:
        binding: Whose; others may write to the same topics.
        reader: Assigned to their partitions.
        last: Begin with the last so many.
        follow: Go on for ever.
        beginning: Begin with all that is there.
    """
    starts, ends = await reader.starts(), await reader.ends()
    if beginning or last is not None:
        async for line in _there(binding, reader, starts, ends, None if beginning else last):
            yield line
    reader.seek(ends)
    if follow:
        async for records in reader.follow():
            for line in mine(binding, records):
                yield line


async def _there(
    binding: FlowBinding, reader: Reader, starts: Offsets, ends: Offsets, last: int | None
) -> AsyncIterator[Line]:
    """What is there now; the last so many in the order of time."""
    if last is None:
        reader.seek(starts)
        async for records in reader.until(ends):
            for line in mine(binding, records):
                yield line
        return
    # Each further look goes twice as far back: others' records and markers take offsets too.
    reach = last
    while True:
        begin = {tp: max(starts[tp], end - reach) for tp, end in ends.items()}
        reader.seek(begin)
        found = [line async for r in reader.until(ends) for line in mine(binding, r)]
        counts = Counter((line["topic"], line["partition"]) for line in found)
        if all(counts[tp] >= last or begin[tp] == starts[tp] for tp in begin):
            break
        reach *= 2
    for line in sorted(found, key=lambda line: line["timestamp"])[-last:]:
        yield line


def mine(binding: FlowBinding, records: Iterable[ConsumerRecord]) -> list[Line]:
    """Those of the records that are results or dead letters of the binding."""
    return [line for record in records if (line := line_of(binding, record)) is not None]


def line_of(binding: FlowBinding, record: ConsumerRecord) -> Line | None:
    """A record as plain data; None when it is no result or dead letter of the binding."""
    line: Line = {
        "kind": "result",
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "time": iso(record.timestamp),
        "key": readable(record.key),
        "value": readable(record.value),
        "source": None,
    }
    if binding.spec.output is not None and record.topic in binding.spec.output.topics:
        headers = {name: content for name, content in record.headers if content is not None}
        if headers.get(RESULT_BINDING) == binding.key.encode():
            return {**line, "source": flat(headers.get(RESULT_SOURCE, b"?"))}
    letter = letter_of(record)
    if letter.group != binding.consumer_group:
        return None
    about = {"reason": letter.reason, "stage": letter.stage, "message": letter.message}
    source = str(letter.source) if letter.source else None
    return {**line, "kind": "dead-letter", "source": source, **about}


def print_line(line: Line, output: Format) -> None:
    """Write a line."""
    console = stdout()
    if output is not Format.TABLE:
        # One line for each, also as YAML, which JSON is a part of: it never ends.
        console.print(Text(json.dumps(line, ensure_ascii=False)), soft_wrap=True)
        return
    console.print(text_of(line), soft_wrap=True)


def text_of(line: Line) -> Text:
    """A line for people."""
    dead = line["kind"] == "dead-letter"
    moment = datetime.fromtimestamp(max(line["timestamp"], 0) / 1000).astimezone()
    text = Text(f"{moment:%H:%M:%S} ", style="dim")
    text.append("DEAD   " if dead else "result ", style="bold red" if dead else "bold green")
    text.append(f"{line['source'] or '?'} ", style="cyan")
    if line["key"] is not None:
        text.append(f"{_compact(line['key'])} ", style="dim")
    if dead:
        text.append(f"{line['reason']}: {line['message']}  ", style="red")
    text.append(_compact(line["value"]), style="dim" if dead else "not dim")
    return text


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
