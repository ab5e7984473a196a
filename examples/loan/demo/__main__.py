"""Runs the demo on the testbed, or on a kind cluster when KUBECONFIG names one.

Everything is real: the Kafka broker, the Kubernetes control plane, the operator installed by its
chart, and the Langflow flows that the workers run in-process.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

import kafkaio
from demo.applications import send
from demo.observed import Observed
from demo.view import View, summary
from flowbinding_api.binding import DEAD_LETTER_SUFFIX
from testbed import Report, Testbed, TestbedError

EXAMPLE = Path(__file__).parents[1]
NAMESPACE = "loan"
REQUESTS = "finance.loan.request.v1"
DECISIONS = ("finance.loan.decision.v1", "finance.loan.review.v1")
SOURCES = {
    "loan-application": REQUESTS,
    "loan-risk": "finance.loan.application.v1",
    "loan-decision": "risk.scoring.result.v1",
}
TOPICS = (
    *SOURCES.values(),
    *DECISIONS,
    *(f"{topic}.{binding}{DEAD_LETTER_SUFFIX}" for binding, topic in SOURCES.items()),
)
PARTITIONS = 6


def demo(
    applications: Annotated[int, typer.Option(min=1, help="Loan applications to send.")] = 400,
    bursts: Annotated[int, typer.Option(min=1, help="In how many bursts.")] = 2,
    picture: Annotated[Path | None, typer.Option(help="Write the last screen as an SVG.")] = None,
) -> None:
    """Show FlowBinding at work, and check that nothing was lost."""
    with Report() as report:
        bed = Testbed.ensure(report=report)
        with report.step("Operator, installed with Helm"):
            bed.install_operator()
        with report.step("Topics, and examples/loan applied with kubectl"):
            asyncio.run(kafkaio.create_topics(bed.bootstrap, *TOPICS, partitions=PARTITIONS))
            bed.kubectl("apply", "-k", str(EXAMPLE))
    observed = Observed(bed, NAMESPACE, REQUESTS, DECISIONS)
    view = View(observed)
    try:
        asyncio.run(_run(observed, view, applications, bursts))
    finally:
        view.close(picture)
    view.print(summary(observed))
    view.print(f"It is still up. To look around: . {bed.layout.env} && kubectl get fb -n loan")
    view.print("To stop it: make down")
    if observed.lost:
        raise typer.Exit(1)


async def _run(observed: Observed, view: View, applications: int, bursts: int) -> None:
    """Send, watch until all decisions are out and all workers are gone."""
    watchers = [
        asyncio.create_task(work)
        for work in (observed.watch_bindings(), observed.watch_decisions(), view.refresh())
    ]
    story = asyncio.create_task(_story(observed, applications, bursts))
    try:
        # Whatever ends first: the story, or a watcher with an error.
        done, _ = await asyncio.wait([story, *watchers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (story, *watchers):
            task.cancel()
        await asyncio.gather(story, *watchers, return_exceptions=True)


async def _story(observed: Observed, applications: int, bursts: int) -> None:
    await observed.until(lambda: observed.all_ready, "all bindings are ready", 60)
    size = -(-applications // bursts)
    for start in range(0, applications, size):
        burst = min(size, applications - start)
        observed.say(f"{burst} applications sent")
        await send(observed, burst)
        # The next burst arrives while the later agents are still busy with this one.
        await observed.until(lambda: observed.taken_in, "the burst is taken in", 240)
    await observed.until(lambda: not observed.waiting, "every application is decided", 240)
    observed.say("all applications are decided; workers go when nothing comes")
    await observed.until(lambda: observed.asleep, "no worker is left", 120)


def main() -> int:
    """Run it; errors are told in sentences."""
    try:
        typer.run(demo)
    except TestbedError as error:
        sys.stderr.write(f"error: {error.message}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
