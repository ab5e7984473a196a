"""`flowbinding produce --wait`: what becomes of the messages that were just sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_cli.kafka import Cluster, Reader, no_topic
from flowbinding_cli.tail import Line, mine, topics_of

NAMED = 3
"""Messages without an answer that an error names."""

Answered = Callable[[Collection[str], float], AsyncGenerator[Line, None]]
"""Takes the messages as `<topic>-<partition>-<offset>`, and how many seconds to wait."""


@asynccontextmanager
async def expected(kafka: dict[str, Any], binding: FlowBinding) -> AsyncIterator[Answered]:
    """Looks at the ends of a binding's results and dead letters, before messages are sent.

    Raises:
        FlowBindingError: It writes nothing, or to no topic that is there.
    """
    topics = topics_of(binding)
    async with Cluster(kafka) as cluster:
        partitions = await cluster.partitions(*topics)
        if not partitions:
            raise no_topic(topics)
        async with cluster.reader(partitions) as reader:
            reader.seek(await reader.ends())
            yield lambda sources, seconds: answers_to(binding, reader, sources, seconds)


async def answers_to(
    binding: FlowBinding, reader: Reader, sources: Collection[str], seconds: float
) -> AsyncGenerator[Line, None]:
    """The first result or dead letter of each message, as they come; ends with the last one.

    Args:
        binding: Whose; others may write to the same topics.
        reader: Where it was before the messages were sent.
        sources: The messages, as `<topic>-<partition>-<offset>`.
        seconds: Ends after so long, whatever is missing.
    """
    waiting = set(sources)
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with aclosing(reader.follow()) as batches:
        while waiting:
            try:
                async with asyncio.timeout_at(until):
                    records = await anext(batches)
            except TimeoutError:
                return
            for line in mine(binding, records):
                if line["source"] in waiting:
                    waiting.discard(line["source"])
                    yield line


def check(sources: Collection[str], lines: Iterable[Line], seconds: float) -> None:
    """Every message has an answer.

    Raises:
        FlowBindingError: Says how many have none, and which.
    """
    missing = sorted(set(sources) - {line["source"] for line in lines})
    if not missing:
        return
    named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
    verb = "has" if len(missing) == 1 else "have"
    raise FlowBindingError(
        f"{len(missing)} of {len(sources)} messages {verb} no result and no dead letter after"
        f" {seconds:g} s: {named} (`flowbinding status` says what is wrong; messages that"
        " spec.source.filter leaves out have none)"
    )
