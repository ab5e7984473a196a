"""`flowbinding produce`: sends messages to a binding's topic, or to any other."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Annotated, Any

import typer

from flowbinding_api import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.kafka_options import NULL
from flowbinding_cli import answers, messages, options
from flowbinding_cli.kafka import Cluster, no_topic
from flowbinding_cli.messages import Message
from flowbinding_cli.output import Format, bar, emit, note, stdout, table
from flowbinding_cli.source import Source, source_of
from flowbinding_cli.tail import print_line
from flowbinding_cli.target import Finder, checked_servers
from flowbinding_cli.unacknowledged import Unacknowledged, lacking

IN_FLIGHT = 1000
"""Messages that wait for their acknowledgement at most."""


Written = dict[int, "array[int]"]
"""The offsets that messages got, in order, by partition."""


@options.given(find=options.finder, source=source_of)
def produce(
    source: Source,
    binding: Annotated[
        str | None,
        typer.Argument(
            metavar="BINDING",
            help="Name of a FlowBinding or path of a manifest; or say --topic.",
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic; the binding's source topic when absent.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header. Repeatable.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Messages per second at most.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Show what becomes of these messages: results and dead letters.",
        ),
    ] = None,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Send messages, each acknowledged by all replicas."""
    headers = messages.headers(header or ())
    kafka, to, whose = _where(binding, topic, find)
    if wait is not None and (whose is None or to not in whose.spec.source.all_topics):
        raise typer.BadParameter("--wait is for a BINDING and a topic that it reads")

    async def sent() -> Written:
        with source.open() as found, bar("sent", source.total) as show:
            pace = Pace(rate, time.monotonic, asyncio.sleep)
            return await send(kafka, to, found, headers, pace, show)

    if wait is None or whose is None:
        _report(to, asyncio.run(sent()), output)
    else:
        asyncio.run(_with_answers(kafka, whose, to, sent, wait, output))


async def _with_answers(
    kafka: dict[str, Any],
    binding: FlowBinding,
    topic: str,
    sent: Callable[[], Awaitable[Written]],
    seconds: float,
    output: Format,
) -> None:
    """Send, then show results and dead letters of what was sent.

    Raises:
        FlowBindingError: Some messages have neither in time; names the first of them.
    """
    async with answers.expected(kafka, binding) as answered:
        written = await sent()
        if output is Format.TABLE:
            _report(topic, written, output)
        sources = {f"{topic}-{n}-{offset}" for n, all_ in written.items() for offset in all_}
        lines = []
        async for line in answered(sources, seconds):
            lines.append(line)
            if output is Format.TABLE:
                print_line(line, output)
    if output is not Format.TABLE:
        emit({**_summary(topic, written), "answers": lines}, output)
    answers.check(sources, lines, seconds)


def _where(
    binding: str | None, topic: str | None, find: Finder
) -> tuple[dict[str, Any], str, FlowBinding | None]:
    """Client options, topic, and the binding if there is one.

    Raises:
        typer.BadParameter: The options do not say it.
        FlowBindingError: The binding does not.
    """
    if binding is None:
        if topic is None or find.bootstrap_servers is None:
            raise typer.BadParameter("say a BINDING, or --topic and --bootstrap-servers")
        return {"bootstrap_servers": checked_servers(find.bootstrap_servers)}, topic, None
    target = find.find(binding)
    topics = target.binding.spec.source.all_topics
    if topic is None and not topics:
        raise FlowBindingError(
            f"{target.binding.key} runs on a schedule and reads no topic: `flowbinding run"
            f" {target.binding.metadata.name}` runs it now, with --value for another message"
        )
    if topic is None and len(topics) > 1:
        raise typer.BadParameter(
            f"{target.binding.key} has several topics: say --topic, one of {', '.join(topics)}"
        )
    return target.options(), topic or topics[0], target.binding


class Pace:
    """Spreads messages over time.

    Args:
        rate: Messages per second; None for no limit.
        clock: Steady seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._gap = 0.0 if rate is None else 1 / rate
        self._clock = clock
        self._sleep = sleep
        self._due: float | None = None

    async def turn(self) -> None:
        """Wait until the next message is due. A late one does not hurry those after it."""
        if not self._gap:
            return
        now = self._clock()
        if self._due is not None and self._due > now:
            await self._sleep(self._due - now)
            now = self._due
        self._due = now + self._gap


async def send(
    kafka: dict[str, Any],
    topic: str,
    found: Iterable[Message],
    headers: list[tuple[str, bytes]],
    pace: Pace,
    show: Callable[[int], None],
) -> Written:
    """Send messages in order.

    Returns:
        The offsets that they got.

    Raises:
        KafkaTroubleError: Kafka refuses; says how many are written.
    """
    written: Written = {}
    async with Cluster(kafka) as cluster:
        if not await cluster.partitions(topic):
            raise no_topic([topic])

        async def why() -> str:
            return lacking(*await cluster.replicas(topic))

        def acknowledged(place: Any) -> None:
            written.setdefault(place.partition, array("q")).append(place.offset)
            show(_count(written))

        sending = Unacknowledged(topic, why, acknowledged)
        try:
            async with cluster.producer() as producer, sending:
                for key, value in found:
                    await pace.turn()
                    sent_key = NULL if key is None else key
                    record = partial(producer.send, topic, value, sent_key, headers=list(headers))
                    await sending.send(record, IN_FLIGHT)
        except FlowBindingError as error:
            so_far = f"{error} ({_so_far(written, len(sending))})"
            raise FlowBindingError(so_far, reason=error.reason) from None
        except asyncio.CancelledError:
            note(f"interrupted: {_so_far(written, len(sending))}")
            raise
    return written


def _count(written: Written) -> int:
    return sum(map(len, written.values()))


def _so_far(written: Written, unknown: int) -> str:
    number = _count(written)
    text = f"{number:,} message{' was' if number == 1 else 's were'} written"
    if not number:
        text = "nothing is known to be written" if unknown else "nothing was written"
    return f"{text}; {unknown:,} without acknowledgement may be" if unknown else text


def _summary(topic: str, written: Written) -> dict[str, Any]:
    places = [
        {"topic": topic, "partition": n, "count": len(all_), "first": all_[0], "last": all_[-1]}
        for n, all_ in sorted(written.items())
    ]
    return {"written": _count(written), "partitions": places}


def _report(topic: str, written: Written, output: Format) -> None:
    summary = _summary(topic, written)
    if output is not Format.TABLE:
        emit(summary, output)
        return
    names = ("partition", "count", "first", "last")
    rows = [[str(place[name]) for name in names] for place in summary["partitions"]]
    console = stdout()
    number = summary["written"]
    console.print(f"{number} message{'' if number == 1 else 's'} written to {topic}")
    if rows:
        console.print(table(("PARTITION", "MESSAGES", "FIRST OFFSET", "LAST OFFSET"), rows))
