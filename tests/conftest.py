"""Fixtures of all tiers: the testbed, a Kafka broker, topics."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import settings

import kafkaio
from kafkaio import TopicFactory
from testbed import KafkaBroker, Testbed, files, gobuild

ROOT = Path(__file__).parents[1]
TIERS = ("integration", "e2e")
EAGER_CLEANER = {"log.cleaner.backoff.ms": "500"}
"""Compacted topics are compacted while a test waits; 15 s by default."""

# How long an example takes says how busy the machine is.
settings.register_profile("flowbinding", settings.default, deadline=None)
settings.load_profile("flowbinding")


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
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this test run, the same in all of its processes."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def testbed(run_folder: Path) -> Iterator[Testbed]:
    """Kafka and Kubernetes of this test run alone; a running demo is left in peace.

    FLOWBINDING_TESTBED names one that should be used, and kept, instead.
    """
    if os.environ.get("FLOWBINDING_TESTBED"):
        yield Testbed.ensure()
        return
    bed = Testbed(run_folder / "testbed")
    with _shared(run_folder / "testbed-users", bed.up, bed.down):
        yield bed


@pytest.fixture(scope="session")
def kafka(run_folder: Path) -> Iterator[KafkaBroker]:
    """A plain broker, shared by all processes of a test run."""
    broker = KafkaBroker(run_folder / "kafka", properties=EAGER_CLEANER)
    with _shared(run_folder / "kafka-users", broker.start, broker.stop):
        yield broker


@contextmanager
def _shared(users: Path, start: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    """Whoever needs something first starts it; the last one to leave stops it.

    Each process holds a share of a lock, which the kernel takes back from one that dies. `start`
    leaves alone what runs.
    """
    turn = users.with_suffix(".turn")
    with users.open("a") as share:
        with files.locked(turn):
            fcntl.flock(share, fcntl.LOCK_SH)
            start()
        try:
            yield
        finally:
            with files.locked(turn), suppress(BlockingIOError):
                fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop()


@pytest.fixture
async def topic(kafka: KafkaBroker) -> AsyncIterator[TopicFactory]:
    """Makes topics on the plain broker."""
    async with kafkaio.topic_factory(kafka.bootstrap) as new:
        yield new
