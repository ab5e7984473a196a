"""Simple processing without a flow server: the answer is the input."""

from __future__ import annotations

import asyncio

from flowbinding_worker.ports import FlowRequest, FlowResult


class EchoFlow:
    """Answers with the rendered input, so that `flow.input` alone transforms messages."""

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self, request: FlowRequest) -> FlowResult:
        """The input as the answer."""
        # A slot goes on with its next message at once: others would have no turn.
        await asyncio.sleep(0)
        return FlowResult(request.input)

    async def close(self) -> None:
        """Nothing to release."""
