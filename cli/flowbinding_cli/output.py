"""How the commands write: tables for people, JSON and YAML for programs, notes beside them."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import yaml
from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 1000
"""Columns of a table that goes to a file or a pipe: nothing is cut there."""

ELASTIC = ("TOPIC", "FLOW", "SOURCE", "KEY", "MESSAGE", "TROUBLE")
"""Columns that are shortened first when a terminal is too narrow."""


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def stdout() -> Console:
    """Where results go."""
    return _console(stderr=False)


def stderr() -> Console:
    """Where progress, notes and errors go."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def emit(data: Any, format: Format) -> None:
    """Write plain data as JSON or YAML."""
    if format is Format.JSON:
        text = json.dumps(data, ensure_ascii=False, indent=2)
    else:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip()
    # Without rich: lines must not be wrapped, whatever the terminal.
    sys.stdout.write(text + "\n")


def named(item: Any) -> dict[str, Any]:
    """A dataclass as plain data, its fields and those within it named as in Kubernetes."""
    return asdict(item, dict_factory=lambda pairs: {to_camel(name): v for name, v in pairs})


def note(text: str) -> None:
    """Tell people something beside the results."""
    stderr().print(Text(text), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table as kubectl writes it. On a narrow terminal, long texts give way to figures."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=column not in ELASTIC)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(content: str | Text) -> Text:
    text = Text(content) if isinstance(content, str) else content
    # For elastic columns: shortened, and not wrapped.
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def one_line(text: str, limit: int) -> str:
    """Text for a table's cell."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def number(value: float | None, digits: int = 0) -> str:
    """A figure; `-` while it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def readable(raw: bytes | None) -> Any:
    """Bytes for people and JSON: data when they are JSON, else text, else base64."""
    if raw is None:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def flat(raw: bytes | None) -> str:
    """Bytes as one line of text."""
    if raw is None:
        return "null"
    return " ".join(raw.decode("utf-8", "backslashreplace").split())


def plain_headers(headers: Iterable[tuple[str, bytes | None]]) -> list[Mapping[str, Any]]:
    """Headers as data; names may repeat."""
    return [
        {"name": name, "value": None if raw is None else raw.decode("utf-8", "backslashreplace")}
        for name, raw in headers
    ]


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal, and nothing elsewhere.

    Yields:
        A function that takes how much is done, and optionally of how much.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = stderr()
    if not console.is_terminal:
        # A disabled one would still print an empty line at its end.
        yield lambda _done, _of=None: None
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)

        def show(done: int, of: int | None = None) -> None:
            progress.update(task, completed=done, total=total if of is None else of)

        yield show
