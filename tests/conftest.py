"""Fixtures of all tiers: the testbed, a Kafka broker, topics."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import kafkaio
from kafkaio import TopicFactory
from testbed import KafkaBroker, Testbed, gobuild

ROOT = Path(__file__).parents[1]
TIERS = ("integration", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the tier: `-m integration` and `-m e2e` select by it."""
    for item in items:
        for tier in TIERS:
            if tier in item.path.relative_to(ROOT / "tests").parts:
                item.add_marker(tier)


@pytest.fixture(scope="session")
def helm() -> Path:
    """The Helm program, from the testbed's cache, built when it is not there."""
    return gobuild.binary(gobuild.HELM, lambda _note: None)


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Kafka and Kubernetes of this test run alone; a running demo is left in peace.

    FLOWBINDING_TESTBED names one that should be used, and kept, instead.
    """
    if os.environ.get("FLOWBINDING_TESTBED"):
        yield Testbed.ensure()
        return
    bed = Testbed.ensure(root=tmp_path_factory.mktemp("testbed"))
    try:
        yield bed
    finally:
        bed.down()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A plain broker."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
async def topic(kafka: KafkaBroker) -> AsyncIterator[TopicFactory]:
    """Makes topics on the plain broker."""
    async with kafkaio.topic_factory(kafka.bootstrap) as new:
        yield new
