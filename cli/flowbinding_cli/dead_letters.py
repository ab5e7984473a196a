"""`flowbinding dead-letters`: list, show, replay and drop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from flowbinding_api.errors import FlowBindingError
from flowbinding_cli import options
from flowbinding_cli.kafka import Cluster
from flowbinding_cli.letters import DeadLetter, Filter, ago, iso, moment_ms
from flowbinding_cli.output import (
    Format,
    bar,
    emit,
    flat,
    note,
    one_line,
    plain_headers,
    readable,
    stdout,
    table,
)
from flowbinding_cli.replay import Order, Outcome, Settlement
from flowbinding_cli.scan import Old, Scope, forgotten_text, missing_text, scanning
from flowbinding_cli.target import Finder

dead_letters = typer.Typer(
    no_args_is_help=True, help="Look at messages that could not be processed, and settle them."
)

Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="Only this one, as `list` names it. Repeatable."),
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only with this reason. Repeatable.")
]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Only from DECODE, TEMPLATE, CALL or OUTPUT. Repeatable."),
]
SourceTopic = Annotated[str | None, typer.Option(help="Only messages of this source topic.")]
SourcePartition = Annotated[
    int | None, typer.Option(min=0, help="Only messages of this source partition.")
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only failed since, e.g. 2h or 2026-11-21.")
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only failed before, e.g. 7d or a date.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
OldOption = Annotated[
    Old | None,
    typer.Option("--old", help="What letters are that Kafka may have forgotten the replay of."),
]


@dataclass(slots=True)
class Listed:
    """What `list` found.

    Attributes:
        letters: The first ones, without their values, with whether each is done.
        reasons: All that match, counted.
        note: What else a user should know.
    """

    letters: list[tuple[DeadLetter, bool]]
    reasons: Counter[str]
    note: str = ""


def _filter(
    id_: Ids = None,
    reason: Reasons = None,
    stage: Stages = None,
    source_topic: SourceTopic = None,
    source_partition: SourcePartition = None,
    since: Since = None,
    until: Until = None,
) -> Filter:
    now = datetime.now(UTC)
    return Filter(
        ids=frozenset(id_ or ()),
        reasons=reason or (),
        stages=stage or (),
        source_topic=source_topic,
        source_partition=source_partition,
        since_ms=None if since is None else moment_ms(since, now),
        until_ms=None if until is None else moment_ms(until, now),
    )


@dead_letters.command("list")
@options.given(find=options.finder, chosen=_filter)
def list_(
    binding: options.Binding,
    chosen: Filter,
    limit: Limit = 50,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that were replayed or dropped.")
    ] = False,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """List dead letters that are neither replayed nor dropped."""
    target = find.find(binding)
    scope = Scope.of(target.binding)
    found = asyncio.run(_list(target.options(), scope, chosen, limit, everything=all_))
    if output is not Format.TABLE:
        emit([{**summary(letter), "done": done} for letter, done in found.letters], output)
    else:
        _print_list(found, with_state=all_)
    if found.note:
        note(f"note: {found.note}")


async def _list(
    kafka: dict[str, Any], scope: Scope, chosen: Filter, limit: int | None, *, everything: bool
) -> Listed:
    listed = Listed([], Counter())
    with bar("read") as show:
        async with (
            Cluster(kafka) as cluster,
            scanning(cluster, scope, everything=everything) as scan,
        ):
            if scan.forgotten:
                listed.note = forgotten_text(scan)
            elif scan.missing:
                listed.note = missing_text(scan)
            async for letter, done in scan.letters(show):
                if (done and not everything) or not chosen.matches(letter):
                    continue
                listed.reasons[letter.reason] += 1
                if limit is None or len(listed.letters) < limit:
                    # Values may be large, and are not shown.
                    listed.letters.append((replace(letter, value=None), done))
    return listed


def _print_list(found: Listed, *, with_state: bool) -> None:
    console = stdout()
    total = sum(found.reasons.values())
    if not total:
        console.print("No dead letters.")
        return
    state = ("STATE",) if with_state else ()
    columns = ("ID", *state, "REASON", "STAGE", "ATTEMPTS", "SOURCE", "KEY", "AGE", "MESSAGE")
    console.print(table(columns, (_row(*item, with_state) for item in found.letters)))
    counts = ", ".join(f"{count} {reason}" for reason, count in found.reasons.most_common())
    shown = f", {len(found.letters)} shown" if len(found.letters) < total else ""
    console.print(f"\n{total} dead letters{shown}: {counts}")


def _row(letter: DeadLetter, done: bool, with_state: bool) -> tuple[str | Text, ...]:
    state = (Text("done", "green") if done else Text("open", "yellow"),) if with_state else ()
    return (
        letter.id,
        *state,
        letter.reason,
        letter.stage,
        letter.about.get("attempts", "-"),
        str(letter.source or "-"),
        one_line(flat(letter.key), 24),
        ago(time.time() - letter.failed_ms / 1000),
        one_line(letter.message, 80),
    )


def summary(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as plain data, without its value."""
    source = letter.source
    return {
        "id": letter.id,
        "reason": letter.reason,
        "stage": letter.stage,
        "message": letter.message,
        "attempts": int(letter.about.get("attempts") or 0),
        "source": source
        and {"topic": source.topic, "partition": source.partition, "offset": source.offset},
        "key": readable(letter.key),
        "failed": iso(letter.failed_ms),
    }


@dead_letters.command()
@options.given(find=options.finder)
def show(
    binding: options.Binding,
    find: Finder,
    letter_id: Annotated[
        str, typer.Argument(metavar="ID", help="As `list` names it, or PARTITION-OFFSET of it.")
    ],
    output: options.Output = Format.YAML,
) -> None:
    """Show one dead letter in full: its message, and everything about why it is there."""
    target = find.find(binding)
    found = asyncio.run(_find(target.options(), Scope.of(target.binding), letter_id))
    shown = {
        **summary(found),
        "value": readable(found.value),
        "headers": plain_headers(found.headers),
        "about": dict(found.about),
    }
    emit(shown, Format.YAML if output is Format.TABLE else output)


async def _find(kafka: dict[str, Any], scope: Scope, letter_id: str) -> DeadLetter:
    """The one dead letter with that id.

    Raises:
        FlowBindingError: There is none, or there are several.
    """
    chosen = Filter(ids={letter_id})
    with bar("read") as show_:
        async with Cluster(kafka) as cluster, scanning(cluster, scope, everything=True) as scan:
            found = [item async for item, _ in scan.letters(show_) if chosen.matches(item)]
    if len(found) != 1:
        topics = ", ".join(scope.topics)
        which = "several dead letters" if found else "no dead letter"
        raise FlowBindingError(f"{letter_id}: {which} of that id in {topics}")
    return found[0]


@dead_letters.command()
@options.given(find=options.finder, chosen=_filter)
def replay(
    binding: options.Binding,
    chosen: Filter,
    to: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Write here, and not to the source topic.")
    ] = None,
    limit: Limit = None,
    old: OldOption = None,
    dry_run: DryRun = False,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Write dead letters back to their source topic, each exactly once.

    Key, value and headers are the original ones.
    A replay that was interrupted goes on when it is run again.
    What a filter leaves out stays listed.
    """
    order = Order(chosen, write=True, to=to, limit=limit, old=old, dry_run=dry_run)
    target = find.find(binding)
    if target.binding.spec.source.schedule is not None and to is None:
        raise FlowBindingError(
            f"{target.binding.key} runs on a schedule, and has no topic to write messages back to:"
            f" `flowbinding run {target.binding.metadata.name}` runs it again; or say --to"
        )
    outcome = _settle(target.options(), Scope.of(target.binding), order)
    _report(outcome, order, output)


@dead_letters.command()
@options.given(find=options.finder, chosen=_filter)
def drop(
    binding: options.Binding,
    chosen: Filter,
    limit: Limit = None,
    old: OldOption = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Call dead letters done without replaying them. They stay in their topic."""
    order = Order(chosen, write=False, limit=limit, old=old, dry_run=dry_run)
    target = find.find(binding)
    if not (yes or dry_run):
        typer.confirm(
            f"Call these dead letters of {target.binding.key} done?", abort=True, err=True
        )
    outcome = _settle(target.options(), Scope.of(target.binding), order)
    _report(outcome, order, output)


def _settle(kafka: dict[str, Any], scope: Scope, order: Order) -> Outcome:
    async def work() -> Outcome:
        async with Cluster(kafka) as cluster:
            settlement = Settlement(cluster, scope, order)
            try:
                return await settlement.run(show_)
            except FlowBindingError as error:
                done = settlement.outcome.settled
                text = f"{error} ({done} dead letters are settled by this run, for good)"
                raise FlowBindingError(text, reason=error.reason) from None

    with bar("scanned") as show_:
        return asyncio.run(work())


def _report(outcome: Outcome, order: Order, output: Format) -> None:
    if output is not Format.TABLE:
        emit(
            {
                "replayed" if order.write else "dropped": outcome.settled,
                "written": dict(outcome.written),
                "kept": dict(outcome.kept),
                "left": outcome.left,
                "dryRun": order.dry_run,
            },
            output,
        )
        return
    console = stdout()
    what = "replayed" if order.write else "dropped"
    would = "would be " if order.dry_run else ""
    console.print(f"{outcome.settled} dead letters {would}{what}")
    for topic, count in outcome.written.most_common():
        console.print(f"  {count} to {topic}")
    for why, count in outcome.kept.most_common():
        console.print(f"  {count} not: {why}")
    if outcome.left:
        console.print(f"  {outcome.left} left: not selected")
