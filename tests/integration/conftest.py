"""Fixtures of the integration tier."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from integration.flow_server import FlowServer, flow_server


@pytest.fixture
async def flow() -> AsyncIterator[FlowServer]:
    """A stand-in for a Langflow server."""
    async with flow_server() as server:
        yield server
