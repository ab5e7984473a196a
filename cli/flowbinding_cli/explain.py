"""`flowbinding explain`: why a binding has the workers that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from flowbinding_cli import options
from flowbinding_cli.because import Facts
from flowbinding_cli.explanation import Explanation
from flowbinding_cli.explanation import explain as explanation_of
from flowbinding_cli.output import Format, emit, stdout
from flowbinding_cli.target import Finder

BOLD = "bold"


@options.given(find=options.kube_finder)
def explain(
    binding: options.Name,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Tell why a binding has so many workers: what was measured, the formula, limits, ways out."""
    facts = Facts.of(find.live(binding), datetime.now(UTC))
    found = explanation_of(facts)
    if output is Format.TABLE:
        show(stdout(), facts, found)
    else:
        emit(plain(facts, found), output)


def plain(facts: Facts, found: Explanation) -> dict[str, Any]:
    """For programs: the operator's figures as they are, and the texts."""
    status = facts.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name in ("conditions", "selector", "observedGeneration"):
        status.pop(name, None)
    return {"binding": f"{facts.namespace}/{facts.name}", "status": status, **asdict(found)}


def show(console: Console, facts: Facts, found: Explanation) -> None:
    """Print it for people."""
    console.print(Text(headline(facts), BOLD), soft_wrap=True)
    console.print(Text(found.why), soft_wrap=True)
    _section(console, "Measured", _rows(found.inputs))
    _section(console, "How the number comes about", _rows(found.formula))
    _section(console, "What limits it", (Text(f"- {line}") for line in found.limits))
    _section(console, "What would change it", (Text(f"- {line}") for line in found.changes))


def headline(facts: Facts) -> str:
    """How many workers there are."""
    status, mode = facts.status, facts.scaling.mode.value
    desired = "?" if status.desired_replicas is None else str(status.desired_replicas)
    reason = f", because of {status.reason}" if status.reason else ""
    if facts.scheduled:
        return f"{facts.namespace}/{facts.name}: one Pod for each run{reason}"
    return (
        f"{facts.namespace}/{facts.name}: {desired} desired, {status.replicas} there,"
        f" {status.ready_replicas} ready (mode {mode}){reason}"
    )


def _rows(lines: Mapping[str, str]) -> list[Text]:
    width = max(map(len, lines), default=0) + 2
    return [Text.assemble(f"{name + ':':<{width}}", text) for name, text in lines.items()]


def _section(console: Console, title: str, lines: Iterable[Text]) -> None:
    some = list(lines)
    if not some:
        return
    console.print()
    console.print(Text(title, BOLD))
    for line in some:
        console.print(Text.assemble("  ", line), soft_wrap=True)
