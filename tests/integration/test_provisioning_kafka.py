"""Topics that the operator makes, on a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import KafkaLink
from flowbinding_operator.provisioning import provision
from flowbinding_operator.topics import Provisioned, Wanted
from testbed import KafkaBroker


@pytest.fixture
async def link(kafka: KafkaBroker) -> AsyncIterator[KafkaLink]:
    link = KafkaLink({"bootstrap_servers": kafka.bootstrap})
    yield link
    await link.close()


async def partitions(link: KafkaLink, name: str) -> int:
    return len((await link.layout([name])).partitions([name]))


async def has_partitions(link: KafkaLink, name: str, count: int) -> None:
    """A broker tells of a new topic a moment after the controller has made it."""
    async with asyncio.timeout(15):
        while await partitions(link, name) != count:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.05)


async def test_topics_are_made_grow_and_are_left_alone(kafka: KafkaBroker, link: KafkaLink) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    settings = (("cleanup.policy", "compact"), ("retention.ms", "3600000"))
    done = Provisioned(asked=True, done=True)
    assert await provision(Wanted((name,), None, None, settings), link) == done
    # The brokers' default, num.partitions.
    await has_partitions(link, name, 1)
    assert await provision(Wanted((name,), 3, None, ()), link) == done
    await has_partitions(link, name, 3)
    larger = await provision(Wanted((name,), 2, 5, ()), link)
    assert larger.done
    assert f"topic {name!r} has 3" in larger.note
    assert await partitions(link, name) == 3
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        await admin.start()
        found = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    finally:
        await admin.close()
    told = {entry[0]: entry[1] for entry in found[0].resources[0][4]}
    assert (told["cleanup.policy"], told["retention.ms"]) == ("compact", "3600000")


@pytest.mark.parametrize(
    ("copies", "config", "words"),
    [
        (3, (), "spec.provisioning.replicationFactor"),
        (1, (("retention.ms", "soon"),), "spec.provisioning.config"),
        (1, (("no.such.setting", "1"),), "spec.provisioning.config"),
    ],
    ids=["too many copies", "wrong value", "unknown setting"],
)
async def test_what_kafka_refuses_is_told_in_its_words(
    link: KafkaLink, copies: int, config: tuple[tuple[str, str], ...], words: str
) -> None:
    name = f"refused-{uuid.uuid4().hex[:8]}"
    refused = await provision(Wanted((name,), 1, copies, config), link)
    assert not refused.done
    assert refused.trouble is not None
    assert refused.trouble.reason is Reason.PROVISIONING_REFUSED
    assert refused.trouble.message.startswith(f"topic {name!r} cannot be created: Invalid")
    assert words in refused.trouble.message
    assert await partitions(link, name) == 0
