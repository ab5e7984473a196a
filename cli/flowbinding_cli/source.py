"""Where the messages of `produce` come from: its options, and the files that they name."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer

from flowbinding_api.errors import FlowBindingError
from flowbinding_cli import messages
from flowbinding_cli.messages import Message, Text
from flowbinding_cli.target import STDIN

ENCODING = "utf-8-sig"


@dataclass(frozen=True, slots=True)
class Source:
    """Where messages come from: exactly one of the first five is set.

    Attributes:
        count: How many messages `template` makes.
        key: Of all messages; with `template` a template too.
        key_field: The field of each JSON message that is its key.
    """

    json: list[str]
    text: list[str]
    file: str | None
    csv: str | None
    template: str | None
    count: int = 1
    key: str | None = None
    key_field: str | None = None

    @property
    def total(self) -> int | None:
        """How many messages there are; None for those of a file."""
        if self.template is not None:
            return self.count
        return len(self.json) or len(self.text) or None

    @contextmanager
    def open(self) -> Iterator[Iterable[Message]]:
        """The messages with their keys, one by one.

        Raises:
            FlowBindingError: A file cannot be read, or a message is wrong.
        """
        if self.template is not None:
            yield messages.generated(self.template, self.key, self.key_field, self.count)
        elif path := self.csv or self.file:
            read = messages.rows if self.csv else messages.lines
            with _opened(path) as file:
                yield self._keyed(read(_text(file, path), path))
        elif self.json:
            yield self._keyed(messages.json_texts(self.json))
        else:
            yield self._keyed(Text(text, f"message {n}") for n, text in enumerate(self.text, 1))

    def _keyed(self, texts: Iterable[Text]) -> Iterator[Message]:
        return messages.keyed(texts, self.key, self.key_field)


def source_of(
    json: Annotated[
        list[str] | None, typer.Option("--json", help="A message, checked to be JSON. Repeatable.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A message, sent as it is. Repeatable.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(help="A message for each line (- is stdin); .jsonl is checked to be JSON."),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(help="A JSON object for each row (- is stdin); names from the first row."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="Jinja2 template of generated messages: {{ n }}, {{ uuid }}, {{ now }}."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many messages --template makes.")] = 1,
    key: Annotated[
        str | None, typer.Option(help="Key of every message; a template too with --template.")
    ] = None,
    key_field: Annotated[
        str | None, typer.Option(help="Field of each JSON message that is its key, e.g. user.id.")
    ] = None,
) -> Source:
    """What the options say.

    Raises:
        typer.BadParameter: They say nothing, or two things.
    """
    said = [item for item in (json, text, file, csv, template) if item]
    if len(said) != 1:
        raise typer.BadParameter("say exactly one of --json, --text, --file, --csv, --template")
    if key is not None and key_field is not None:
        raise typer.BadParameter("say only one of --key and --key-field")
    return Source(json or [], text or [], file, csv, template, count, key, key_field)


def _opened(path: str) -> TextIO:
    if path == STDIN:
        # Python's own stdin lets through what is no text.
        return io.TextIOWrapper(sys.stdin.buffer, encoding=ENCODING, newline="")
    try:
        return Path(path).open(encoding=ENCODING, newline="")
    except OSError as error:
        raise FlowBindingError(f"{path}: {error.strerror or error}") from None


def _text(file: Iterable[str], path: str) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError:
        raise FlowBindingError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise FlowBindingError(f"{path}: {error.strerror or error}") from None
