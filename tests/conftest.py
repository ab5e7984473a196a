"""Fixtures of all tiers: the testbed, a Kafka broker, topics."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import kafkaio
from kafkaio import TopicFactory
from testbed import KafkaBroker, Testbed, files, gobuild

ROOT = Path(__file__).parents[1]
TIERS = ("integration", "e2e")
EAGER_CLEANER = {"log.cleaner.backoff.ms": "500"}
"""Compacted topics are compacted while a test waits; 15 s by default."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the tier: `-m integration` and `-m e2e` select by it. Slow tests go first.

    Side by side with others, a slow one that begins last would make everybody wait.
    """
    for item in items:
        for tier in TIERS:
            if tier in item.path.relative_to(ROOT / "tests").parts:
                item.add_marker(tier)
        if "helm" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            # The first one may have to build it.
            item.add_marker(pytest.mark.timeout(60, func_only=True))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[KafkaBroker]:
    """A plain broker, shared by all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "kafka"
    with _shared(KafkaBroker(folder, properties=EAGER_CLEANER)) as broker:
        yield broker


@contextmanager
def _shared(broker: KafkaBroker) -> Iterator[KafkaBroker]:
    """Whoever needs the broker first starts it; the last one to leave stops it.

    Each process holds a share of a lock, which the kernel takes back from one that dies.
    """
    broker.folder.mkdir(parents=True, exist_ok=True)
    turn = broker.folder / "turn"
    with (broker.folder / "users").open("a") as users:
        with files.locked(turn):
            fcntl.flock(users, fcntl.LOCK_SH)
            broker.start()
        try:
            yield broker
        finally:
            with files.locked(turn), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                broker.stop()


@pytest.fixture
async def topic(kafka: KafkaBroker) -> AsyncIterator[TopicFactory]:
    """Makes topics on the plain broker."""
    async with kafkaio.topic_factory(kafka.bootstrap) as new:
        yield new
