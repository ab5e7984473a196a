"""Values in Avro's binary encoding, as the data that JSON has, by Apache's own library.

It reads schemas and single values. What leads from one to the next is ours: with the library's
`DatumReader` a few bytes, or an honest schema, can cost hours (docs/decisions/0027). Records and
maps become objects, enums their symbol, unions the value without the name of its branch;
`avro_logical` says what becomes of the rest.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import avro.schema
from avro.constants import VALID_TYPES
from avro.errors import AvroException, IgnoredLogicalType
from avro.io import BinaryDecoder
from avro.name import Names

from flowbinding_worker.payload.avro_logical import LOGICAL, PLAIN

FREE_VALUES, VALUES_PER_BYTE = 10_000, 8
"""Values that a message may have: an empty one takes no byte of it, and a few bytes may ask for
billions."""

_MAX_TEXT = 200


class Schema:
    """Reads values that were written with one schema.

    Args:
        text: The schema as JSON.
        references: The schemas whose names it uses, each after those that it uses itself.

    Raises:
        ValueError: When it is none.
    """

    def __init__(self, text: str, references: Sequence[str] = ()) -> None:
        names = _Names()
        try:
            for reference in references:
                _parsed(json.loads(reference), names)
            schema = json.loads(text)
            self._schema = _parsed(schema, names)
        except (AvroException, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(_problem(error)) from None
        # Java's serializer writes an array of bytes as it is, without its length.
        self._bare = schema in ("bytes", {"type": "bytes"})

    def value(self, body: bytes) -> Any:
        """The value that is encoded in `body`, as the data that JSON has.

        Raises:
            ValueError: When the bytes do not fit the schema.
        """
        if self._bare:
            return base64.b64encode(body).decode("ascii")
        reading = _Reading(body)
        try:
            value = reading.value(self._schema)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except (AvroException, ValueError) as error:
            path = ".".join(reading.path)[:_MAX_TEXT]
            raise ValueError(f"{path}: {error}" if path else str(error)) from None
        if left := len(body) - reading.source.tell():
            raise ValueError(f"{left} bytes are left over behind the value")
        return value


class _Reading:
    """A message's bytes, how far they are read, and the fields that lead there."""

    def __init__(self, body: bytes) -> None:
        self.source = io.BytesIO(body)
        self.path: list[str] = []
        self._decoder = BinaryDecoder(self.source)
        self._left = FREE_VALUES + VALUES_PER_BYTE * len(body)

    def value(self, schema: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise AvroException("more items than a message of this length may have")
        match schema.type:
            case "record" | "error":
                return self._record(schema)
            case "array":
                return [self.value(schema.items) for _ in self._items()]
            case "map":
                return {self._decoder.read_utf8(): self.value(schema.values) for _ in self._items()}
            case "union":
                return self.value(self._picked(schema.schemas, "branches of a union"))
            case "enum":
                return self._picked(schema.symbols, "symbols of an enum")
        return self._single(schema)

    def _single(self, schema: Any) -> Any:
        kind = schema.type
        if kind == "string":
            return self._decoder.read_utf8()
        if kind == "fixed":
            found = self._decoder.read(schema.size)
        else:
            found = getattr(self._decoder, f"read_{kind}")()
        convert = PLAIN.get(kind) or LOGICAL.get((kind, schema.get_prop("logicalType")))
        return found if convert is None else convert(schema, found)

    def _record(self, schema: Any) -> dict[str, Any]:
        value = {}
        for field in schema.fields:
            self.path.append(field.name)
            value[field.name] = self.value(field.type)
            self.path.pop()
        return value

    def _items(self) -> Iterator[int]:
        """Count the items of all blocks; a negative number is followed by the block's length."""
        while count := self._decoder.read_long():
            if count < 0:
                self._decoder.skip_long()
            yield from range(abs(count))

    def _picked(self, choices: Sequence[Any], what: str) -> Any:
        index = self._decoder.read_long()
        if not 0 <= index < len(choices):
            raise AvroException(f"there is no number {index} among {len(choices)} {what}")
        return choices[index]


class _Known(dict[str, avro.schema.NamedSchema]):
    """Not quoted by the library's errors, which do so once more for each level of a schema."""

    def keys(self) -> Any:
        return f"{len(self)} names"


class _Names(Names):
    """Names without a namespace are known within one, too, as Java's library has it."""

    def __init__(self) -> None:
        super().__init__(validate_names=False)
        self.names = _Known()

    def get_name(self, name_attr: str, space_attr: str | None = None) -> Any:
        return super().get_name(name_attr, space_attr) or self.names.get(name_attr)

    def has_name(self, name_attr: str, space_attr: str | None = None) -> bool:
        return self.get_name(name_attr, space_attr) is not None


class _Node(dict[str, Any]):
    """Quoted by the library's errors in a few words."""

    def __repr__(self) -> str:
        return str(self.get("name", self.get("type")))[:_MAX_TEXT]


def _parsed(schema: Any, names: _Names) -> avro.schema.Schema:
    plain = _unwrapped(schema)
    known = names.get_name(plain) if isinstance(plain, str) else None
    with warnings.catch_warnings(action="ignore", category=IgnoredLogicalType):
        return known or avro.schema.make_avsc_object(plain, names, validate_names=False)


def _unwrapped(schema: Any) -> Any:
    """Java's library takes a type that says nothing but its own type, or another's name."""
    if isinstance(schema, list):
        return [_unwrapped(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if "name" not in schema and kind not in (None, *VALID_TYPES):
        return _unwrapped(kind)
    return _Node((key, _unwrapped(value)) for key, value in schema.items())


def _problem(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, RecursionError):
        return "the schema is nested too deeply"
    return f"the schema is not one of Avro's ({' '.join(str(error).split())[:_MAX_TEXT]})"
