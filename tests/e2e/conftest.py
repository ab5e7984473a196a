"""The operator, installed by its chart, and a namespace for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import kafkaio
from e2e.cluster import Namespace
from kafkaio import TopicFactory
from testbed import Testbed, files


@pytest.fixture(scope="session")
def operator(testbed: Testbed, run_folder: Path) -> Testbed:
    """The testbed with the operator in it, under the chart's own service account and role."""
    # Helm installs once at a time; what is there already is left as it is.
    with files.locked(run_folder / "install.turn"):
        testbed.install_operator({"logLevel": "info"})
    return testbed


@pytest.fixture
def namespace(operator: Testbed) -> Iterator[Namespace]:
    """A new namespace, deleted at the end."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    operator.kubectl("create", "namespace", name)
    yield Namespace(operator, name)
    operator.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def new_topic(operator: Testbed) -> AsyncIterator[TopicFactory]:
    """Makes topics on the testbed's broker."""
    async with kafkaio.topic_factory(operator.bootstrap) as new:
        yield new
