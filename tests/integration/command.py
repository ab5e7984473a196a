"""The `flowbinding` command, in a thread or as a process, and dead letters to try it on."""

from __future__ import annotations

import asyncio
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaProducer, TopicPartition
from typer.testing import CliRunner

from flowbinding_api.spec import REPLAY_SUFFIX
from flowbinding_cli.main import app
from flowbinding_worker.delivery import headers
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Failure, Partition, ProcessingError, Record, Stage
from flowbinding_worker.tracker import Tracker
from kafkaio import committed

PROGRAM = (sys.executable, "-m", "flowbinding_cli")


class Result:
    """How a command ended, and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


async def start(*arguments: str) -> Process:
    """Start a command as a process, which can be killed."""
    return await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


async def ended(process: Process) -> Result:
    """Wait for such a command."""
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, stdin: str = "") -> Result:
    """Run a command to its end, in a thread: one at a time, as they share stdout."""
    found = await asyncio.to_thread(
        CliRunner().invoke, app, list(arguments), stdin, catch_exceptions=False
    )
    return Result(found.exit_code, found.stdout, found.stderr)


async def succeed(*arguments: str, stdin: str = "") -> str:
    """What a command that has to succeed writes."""
    result = await run(*arguments, stdin=stdin)
    assert result.code == 0, result
    return result.out


class Desk:
    """A binding in a file, with dead letters as its worker would have written them.

    Args:
        folder: For the manifest.
        bootstrap: The broker.
        source: Its source topic.
        letters: Its dead-letter topic.
    """

    def __init__(self, folder: Path, bootstrap: str, source: str, letters: str) -> None:
        self.bootstrap = bootstrap
        self.source = source
        self.letters = letters
        self.group = f"g-{uuid.uuid4().hex[:8]}"
        self.file = str(folder / "binding.yaml")
        self.spec: dict[str, Any] = {
            "source": {"topic": source, "consumerGroup": self.group},
            "kafka": {"bootstrapServers": bootstrap},
            "flow": {"backend": "Echo"},
            "deadLetter": {"topic": letters},
        }
        self.write()

    def write(self, **spec: Any) -> None:
        """Write the manifest, changed if need be."""
        self.spec.update(spec)
        document = {
            "apiVersion": "flowbinding.io/v1alpha1",
            "kind": "FlowBinding",
            "metadata": {"name": "desk", "namespace": "it"},
            "spec": self.spec,
        }
        Path(self.file).write_text(yaml.safe_dump(document))

    async def fail(
        self,
        numbers: Iterable[int],
        reason: str = "FlowFailed",
        group: str = "",
        timestamp_ms: int | None = None,
    ) -> None:
        """Write dead letters of the messages `m<n>`, whose partitions were `n % 3`."""
        who = headers.Identity("it/desk", "desk-0", group or self.group, "", "Echo")
        await self.write_letters([self._letter(n, reason, who) for n in numbers], timestamp_ms)

    async def write_letters(
        self, records: Sequence[tuple[int, Any, Any, Any]], timestamp_ms: int | None = None
    ) -> None:
        """Write records of partition, key, value and headers."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
        await producer.start()
        try:
            for partition, key, value, found in records:
                await producer.send(
                    *(self.letters, value, key, partition, timestamp_ms), headers=list(found)
                )
        finally:
            await producer.stop()

    def _letter(self, n: int, reason: str, who: headers.Identity) -> tuple[int, Any, Any, Any]:
        own = [("n", str(n).encode()), ("n", b"again"), ("none", None)]
        place = Partition(self.source, n % 3)
        record = Record(place, n, f"k{n}".encode(), f"m{n}".encode(), own, 1_000)
        error = ProcessingError(
            f"no answer to {n}", failure=Failure.TRANSIENT, stage=Stage.CALL, reason=reason
        )
        job = Job(record, Tracker(), attempts=3)
        now_ms = 1_795_000_000_000 + n
        found = headers.dead_letter_headers(who, job, error, now_ms)
        return n % 3, record.key, record.value, found

    async def progress(self) -> dict[TopicPartition, tuple[int, str]]:
        """What replays have committed."""
        return await committed(self.bootstrap, self.group + REPLAY_SUFFIX)
