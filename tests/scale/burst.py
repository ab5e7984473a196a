"""``python -m scale.burst``: how soon a burst gets its final number of workers, some times over."""

from __future__ import annotations

import asyncio
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import kafkaio
from manifests import manifest
from proc import machine
from results import RESULTS
from results import write as write_section
from scale.fleet import BINDINGS, DEPLOYMENTS, api_client, until
from testbed import Testbed

PARTITIONS = 24
MESSAGES = 4800
AIM_SECONDS = 5.0
LOOK_SECONDS = 0.02
TIMEOUT = 60.0
BEGIN, END = "<!-- burst: made by `make bench-burst` -->", "<!-- /burst -->"
LEGEND = f"""\
{MESSAGES:,} messages to a sleeping binding with {PARTITIONS} partitions, which expects a second for
each: the final number is {PARTITIONS}. Real API server, real broker, the operator as its chart
installs it, which looks at Kafka every 2 s. Seconds from the last message's acknowledgement until
the Deployment asks for that number; steps: changes of the number, those during the burst too."""


@dataclass(frozen=True)
class Answer:
    """How a burst was answered.

    Attributes:
        steps: Workers that were asked for, one after the other, and when: seconds after the burst's
            last message, below 0 while it was still being sent.
    """

    steps: list[tuple[float, int]]

    @property
    def seconds(self) -> float:
        """Until the final number was asked for."""
        return self.steps[-1][0]

    @property
    def late_steps(self) -> int:
        """Changes after the last message: more than one is an answer in instalments."""
        return sum(at > 0 for at, _ in self.steps)


def binding(name: str, namespace: str, topic: str) -> dict[str, Any]:
    """A binding that wants one worker a partition for the burst, in Pods that no node takes."""
    return manifest(
        {"metadata": {"name": name, "namespace": namespace}},
        source={"topic": topic},
        scaling={"maxReplicas": PARTITIONS, "expectedSecondsPerMessage": 1},
        concurrency={"perReplica": 1},
        # What is looked at is what the operator wants.
        worker={"nodeSelector": {"flowbinding.io/nowhere": "true"}},
    )


async def answered(bed: Testbed, namespace: str, name: str, topic: str) -> Answer:
    """Send a burst to a binding that sleeps, and see what is asked for.

    Args:
        bed: With the operator.
        namespace: Of the binding.
        name: Of the binding.
        topic: Its topic, with `PARTITIONS` partitions.

    Raises:
        TimeoutError: When the final number does not come.
    """
    seen: list[tuple[float, int]] = []
    async with api_client(bed) as client:

        async def complete() -> bool:
            path = f"{DEPLOYMENTS.format(namespace)}/{name}-worker"
            found = (await client.get(path)).raise_for_status().json()
            wanted = int(found["spec"]["replicas"])
            if wanted != (seen[-1][1] if seen else 0):
                seen.append((time.monotonic(), wanted))
            return wanted == PARTITIONS

        watching = asyncio.create_task(
            until(complete, f"{PARTITIONS} workers", TIMEOUT, every=LOOK_SECONDS)
        )
        try:
            await kafkaio.produce(
                bed.bootstrap, topic, ((b"%d" % n, b"{}") for n in range(MESSAGES))
            )
            sent = time.monotonic()
            await watching
        finally:
            watching.cancel()
    return Answer([(at - sent, wanted) for at, wanted in seen])


async def sleeping(bed: Testbed, namespace: str, name: str) -> None:
    """Wait until a binding is Ready, with no lag."""
    async with api_client(bed) as client:

        async def ready() -> bool:
            path = f"{BINDINGS.format(namespace)}/{name}"
            status = (await client.get(path)).raise_for_status().json().get("status") or {}
            told = {item["type"]: item["status"] for item in status.get("conditions", ())}
            return told.get("Ready") == "True" and status.get("lag") == 0

        await until(ready, f"{name} is Ready", TIMEOUT)


def section(answers: Sequence[Answer], command: str) -> str:
    """The burst's section of RESULTS.md."""
    rows = ["| run | seconds | steps | after the last message |", "|---|---|---|---|"]
    rows += [
        f"| {number} | {answer.seconds:.2f} | {len(answer.steps)} | {answer.late_steps} |"
        for number, answer in enumerate(answers, 1)
    ]
    lines = [BEGIN, "## Burst", "", f"Command: `{command}`", ""]
    lines += [f"- {fact}" for fact in machine()]
    return "\n".join([*lines, "", LEGEND, "", *rows, "", *sentences(answers), END])


def sentences(answers: Sequence[Answer]) -> list[str]:
    """What it comes to."""
    seconds = [answer.seconds for answer in answers]
    median = statistics.median(seconds)
    good = median <= AIM_SECONDS and all(answer.late_steps <= 1 for answer in answers)
    aim = f"in one step within {AIM_SECONDS:g} s"
    return [
        f"Median {median:.2f} s of {len(seconds)} ({min(seconds):.2f} to {max(seconds):.2f});"
        f" aim: {aim}: {'met' if good else 'missed'}."
    ]


async def _runs(bed: Testbed, count: int) -> list[Answer]:
    namespace, answers = "burst", []
    bed.kubectl("create", "namespace", namespace)
    for number in range(1, count + 1):
        name = f"burst-{number}"
        await kafkaio.create_topics(bed.bootstrap, name, partitions=PARTITIONS)
        async with api_client(bed) as client:
            body = binding(name, namespace, name)
            (await client.post(BINDINGS.format(namespace), json=body)).raise_for_status()
            await sleeping(bed, namespace, name)
            answers.append(await answered(bed, namespace, name, name))
            # What is not needed any more must not be looked at in the next run.
            await client.delete(f"{BINDINGS.format(namespace)}/{name}")
        told = f"{answers[-1].seconds:.2f} s, {[wanted for _, wanted in answers[-1].steps]}"
        typer.echo(f"run {number}: {told}", err=True)
    return answers


def main(
    runs: Annotated[int, typer.Option(min=1, help="Bursts, one after the other.")] = 5,
    write: Annotated[bool, typer.Option("--write", help="Into benchmarks/RESULTS.md.")] = False,
) -> None:
    """Measure how soon a burst from zero gets its final number of workers."""
    with tempfile.TemporaryDirectory(prefix="flowbinding-burst-") as folder:
        bed = Testbed(Path(folder) / "testbed")
        try:
            bed.up()
            bed.install_operator({})
            answers = asyncio.run(_runs(bed, runs))
        finally:
            bed.down()
    for line in sentences(answers):
        typer.echo(line)
    if write:
        command = shlex.join(["make", "bench-burst", f"BURST={shlex.join(sys.argv[1:])}"])
        write_section(RESULTS, section(answers, command))


if __name__ == "__main__":
    typer.run(main)
