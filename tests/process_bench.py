"""Pools of real processes for Local flows, and runs in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from flowbinding_worker.flows.processes.fork import Forks
from flowbinding_worker.flows.processes.handle import Document
from flowbinding_worker.flows.processes.pool import Pool, Settings


def document(**data: Any) -> Document:
    return Document({"data": {"name": "n", **data}})


class Bench:
    """A pool of its own, and runs in it."""

    def __init__(self, forks: Forks, most: int = 1, **settings: int) -> None:
        limits = {"threads": 8, "max_runs": 1000, "max_growth": 0, **settings}
        self.pool = Pool(Settings(most=most, **limits), forks)
        self.document = document()
        self._count = 0

    async def run(self, text: str, key: str = "", seconds: float = 30, **more: Any) -> Any:
        self._count += 1
        asked = {"tweaks": {}, "variables": {}, "run": {"input_value": text}, **more}
        answer = await self.pool.run(self.document, key or str(self._count), asked, seconds)
        outputs = answer["outputs"]
        return outputs[0]["outputs"][0]["results"]["m"]["text"] if outputs else None

    async def pid(self, key: str = "") -> int:
        return int(await self.run("pid", key))

    async def begin(self, text: str, key: str = "") -> asyncio.Task[Any]:
        """A run that has its process before anything else happens."""
        task = asyncio.create_task(self.run(text, key))
        await asyncio.sleep(0)
        return task


async def gone(*pids: int) -> None:
    """Wait until the processes have ended and were reaped."""
    async with asyncio.timeout(20):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
