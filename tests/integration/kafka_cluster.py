"""A second broker beside a first one, so that coordinators and leaders have somewhere to move."""

from __future__ import annotations

import asyncio
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from testbed import KafkaBroker
from testbed.state import LOOPBACK

SECOND = 2
"""Node of the second broker."""
_BOTH = {"offsets.topic.replication.factor": "2", "default.replication.factor": "2"}


@asynccontextmanager
async def two_brokers(folder: Path) -> AsyncIterator[tuple[KafkaBroker, KafkaBroker]]:
    """The first broker is the controller as well, and has to stay; the second may crash."""
    first = KafkaBroker(folder / "first", properties=_BOTH)
    await asyncio.to_thread(first.start)
    second = _beside(first, folder / "second")
    try:
        await asyncio.to_thread(second.start)
        yield first, second
    finally:
        await asyncio.to_thread(second.kill)
        await asyncio.to_thread(first.stop)


def _beside(first: KafkaBroker, folder: Path) -> KafkaBroker:
    """A broker of the first one's cluster, which the testbed's own format would not make."""
    port = KafkaBroker(folder).state.port("kafka")
    controller = first.state.port("kafka-controller")
    properties = {
        **_BOTH,
        "process.roles": "broker",
        "node.id": str(SECOND),
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        "listeners": f"CLIENT://{LOOPBACK}:{port}",
    }
    formatted = (first.folder / "data" / "meta.properties").read_text()
    [cluster] = [line for line in formatted.splitlines() if line.startswith("cluster.id=")]
    identity = urlsafe_b64encode(b"A" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    data = folder / "data"
    data.mkdir(parents=True)
    lines = ["version=1", cluster, f"node.id={SECOND}", f"directory.id={identity}", ""]
    (data / "meta.properties").write_text("\n".join(lines))
    return KafkaBroker(folder, properties=properties)
