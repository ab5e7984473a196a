"""The real `flowbinding-worker` as a process, and what a test wants to know of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import yaml

from flowbinding_api.offsets import Figures, decode
from kafkaio import committed, lag
from manifests import merge
from testbed.state import free_port

EXECUTABLE = Path(sys.executable).with_name("flowbinding-worker")


async def until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60, what: str = ""
) -> None:
    """Wait for a condition to hold."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what or condition}") from None


def manifest(bootstrap: str, topic: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a consumer group of its own and quick retries."""
    base = {
        "source": {"topic": topic, "consumerGroup": f"g-{uuid.uuid4().hex[:8]}"},
        "kafka": {"bootstrapServers": bootstrap},
        "flow": {"backend": "Echo"},
        "retry": {"initialBackoffSeconds": 0.1, "maxBackoffSeconds": 0.2, "maxAttempts": 3},
    }
    return {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {"name": "test", "namespace": "it"},
        "spec": merge(base, spec),
    }


class WorkerProcess:
    """One worker; several may share a manifest, and with it the consumer group."""

    def __init__(
        self, folder: Path, document: Mapping[str, Any], name: str = "worker-0", **env: str
    ) -> None:
        self.folder = folder
        self.document = document
        self.group: str = document["spec"]["source"]["consumerGroup"]
        self.bootstrap: str = document["spec"]["kafka"]["bootstrapServers"]
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self._file = folder / f"{name}.yaml"
        self._env = {
            **os.environ,
            "FLOWBINDING_INSTANCE": name,
            "FLOWBINDING_SECRETS": str(folder / "secrets"),
            "FLOWBINDING_SPOOL": str(folder / f"{name}-spool"),
            **env,
        }
        self._process: Process | None = None

    async def __aenter__(self) -> WorkerProcess:
        self._file.write_text(yaml.safe_dump(dict(self.document)))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                EXECUTABLE,
                *["run", "--file", str(self._file), "--http-address", f"127.0.0.1:{self.port}"],
                stdout=log,
                stderr=log,
                env=self._env,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if error is not None:
            # pytest shows it with the failure.
            sys.stderr.write(f"--- {self.log}\n{self.log.read_text()[-8000:]}\n")

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def terminate(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def kill(self) -> None:
        """SIGKILL, as a node that dies."""
        self.process.kill()
        await self.process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP server; status 0 while nobody answers."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as response,
            ):
                return response.status, await response.text()
        except aiohttp.ClientError:
            return 0, ""

    async def ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def metric(self, text: str) -> float:
        """A metric's value, by the beginning of its line."""
        _, body = await self.get("/metrics")
        found = re.search(rf"^flowbinding_worker_{re.escape(text)} (\S+)$", body, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def metrics(self) -> dict[str, float]:
        """All its metrics, by name and labels without the common prefix."""
        _, body = await self.get("/metrics")
        found = re.findall(r"^flowbinding_worker_(\S+) (\S+)$", body, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    async def committed(self) -> int:
        """Sum of the group's committed offsets: messages done, where nothing is unfinished."""
        return sum(offset for offset, _ in await self._commits())

    async def commits(self, messages: int, seconds: float = 60, what: str = "") -> None:
        """Wait until its group has committed so many messages."""

        async def done() -> bool:
            return await self.committed() == messages

        await until(done, seconds, what)

    async def works_off(self, topic: str, seconds: float = 60, what: str = "") -> None:
        """Wait until its group has committed all of a topic."""

        async def done() -> bool:
            return await lag(self.bootstrap, self.group, topic) == 0

        await until(done, seconds, what)

    async def figures(self) -> list[Figures]:
        """What the commits say about the worker."""
        found = await self._commits()
        return [f for o, text in found if (f := decode(o, text).figures) is not None]

    async def highest_done(self) -> int:
        """One past the highest message that the commits call done."""
        done = (decode(o, text).progress.hi_done for o, text in await self._commits())
        # Without a commit nothing is told yet.
        return max(done, default=0)

    async def reason(self) -> str:
        """What keeps it from working, as the operator reads it."""
        return next((f.reason for f in await self.figures() if f.reason), "")

    async def _commits(self) -> list[tuple[int, str]]:
        return list((await committed(self.bootstrap, self.group)).values())
