"""The messages that `produce` sends: from arguments, files, CSV and templates. Pure."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.templates import environment

Message = tuple[bytes | None, bytes]
"""Key and value."""


@dataclass(frozen=True, slots=True)
class Text:
    """A message's text, and where it stands, for errors."""

    text: str
    origin: str


def json_texts(texts: Iterable[str]) -> Iterator[Text]:
    """Texts that have to be JSON.

    Raises:
        FlowBindingError: Naming the first that is not.
    """
    for number, text in enumerate(texts, 1):
        yield _checked_json(Text(text, f"message {number}"))


def lines(file: Iterable[str], name: str) -> Iterator[Text]:
    """The lines of a file, without empty ones; those of .jsonl and .ndjson files have to be JSON.

    Raises:
        FlowBindingError: Naming the line that is not.
    """
    is_json = name.endswith((".jsonl", ".ndjson"))
    for number, line in enumerate(file, 1):
        item = Text(line.rstrip("\r\n"), f"{name}:{number}")
        if item.text.strip():
            yield _checked_json(item) if is_json else item


def rows(file: Iterable[str], name: str) -> Iterator[Text]:
    """The rows of a CSV file as JSON objects: names from the first row, all values are texts.

    Raises:
        FlowBindingError: Naming the row that does not fit the first.
    """
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            origin = f"{name}:{reader.line_num}"
            if None in row or None in row.values():
                raise FlowBindingError(f"{origin}: not as many fields as in the first row")
            yield Text(json.dumps(row, ensure_ascii=False), origin)
    except csv.Error as error:
        raise FlowBindingError(f"{name}:{reader.line_num}: {error}") from None


class Rendered:
    """A Jinja2 template of generated messages, for values and keys.

    Variables: `n` (from 0), `uuid` and `now` (ISO 8601), new for each message. Filters such as
    `random` are Jinja2's own.

    Raises:
        FlowBindingError: It is no template.
    """

    def __init__(self, template: str) -> None:
        try:
            self._template = environment().from_string(template)
        except TemplateError as error:
            raise FlowBindingError(f"template: {error}") from None

    def text(self, n: int) -> str:
        """The n-th text, from 0.

        Raises:
            FlowBindingError: The template fails.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            return self._template.render(n=n, uuid=str(uuid.uuid4()), now=now)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise FlowBindingError(f"template, message {n}: {error}") from None


def keyed(texts: Iterable[Text], key: str | None, field: str | None) -> Iterator[Message]:
    """Texts with their keys.

    Args:
        texts: Of the values.
        key: The key of all messages.
        field: The field of each message's JSON object that is its key; dots lead into objects.

    Raises:
        FlowBindingError: A message has no such field.
    """
    for item in texts:
        chosen = key if field is None else _key_of(item, field)
        try:
            yield None if chosen is None else chosen.encode(), item.text.encode()
        except UnicodeEncodeError:
            # What a shell passes on as it is.
            raise FlowBindingError(f"{item.origin}: not UTF-8") from None


def generated(template: str, key: str | None, field: str | None, count: int) -> Iterator[Message]:
    """`count` messages from a template; the key is a template too.

    Raises:
        FlowBindingError: A template is none, or fails; a message lacks the key's field.
    """
    value, key_template = Rendered(template), None if key is None else Rendered(key)
    for n in range(count):
        text = Text(value.text(n), f"message {n}")
        yield from keyed([text], key_template.text(n) if key_template else None, field)


def headers(given: Iterable[str]) -> list[tuple[str, bytes]]:
    """`name=value` texts as headers.

    Raises:
        FlowBindingError: A text has no `=`, or no name.
    """
    found = []
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise FlowBindingError(f"--header {text}: expected name=value")
        found.append((name, value.encode()))
    return found


def _checked_json(item: Text) -> Text:
    try:
        json.loads(item.text)
    except (ValueError, RecursionError) as error:
        raise FlowBindingError(f"{item.origin}: not JSON: {error}") from None
    return item


def _key_of(item: Text, field: str) -> str:
    try:
        value: Any = json.loads(item.text)
    except (ValueError, RecursionError):
        value = None
    for name in field.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise FlowBindingError(f"{item.origin}: no field {field} for the key")
        value = value[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
