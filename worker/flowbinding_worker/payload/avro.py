"""Values in Avro's binary encoding (Avro 1.12, "Binary encoding"), as the data that JSON has.

    null, boolean, int, long, string     themselves
    float, double                        the number; text where JSON has none: NaN, Infinity
    bytes, fixed                         base64 text
    enum                                 its symbol
    array, map, record                   a list, an object, an object
    union                                the value, without the name of its branch

`avro_logical` says what becomes of dates, decimals and the like. A decoder of our own, because
messages come from anybody, and fastavro's takes the process with it (docs/decisions/0027). Reading
is bounded here: what a message makes is in proportion to its length.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowbinding_worker.payload.avro_logical import LOGICAL

MAX_VARINT_BITS = 63
FREE_STEPS, STEPS_PER_BYTE = 10_000, 8
"""Items and records that a message may have: an empty one takes no byte of it, and a few bytes may
ask for billions."""

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_MAX_PATH = 200


class _BrokenError(ValueError):
    """Bytes that do not fit the schema; knows the fields that lead there."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[str] = []

    def __str__(self) -> str:
        path = ".".join(reversed(self.path))[:_MAX_PATH]
        return f"{path}: {self.args[0]}" if path else str(self.args[0])


class _Source:
    """A message's bytes, and how far they are read."""

    __slots__ = ("_steps", "at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self._steps = FREE_STEPS + STEPS_PER_BYTE * len(data)

    def take(self, length: int) -> bytes:
        end = self.at + length
        if length < 0:
            raise _BrokenError(f"a length of {length}")
        if end > len(self.data):
            raise _BrokenError("the message ends too early")
        found, self.at = self.data[self.at : end], end
        return found

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _BrokenError("more items than a message of this length may have")


_Read = Callable[[_Source], Any]


class _Named:
    """A type with a name; its fields may refer to it before all of them are known."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        self.read: _Read | None = None

    def __call__(self, source: _Source) -> Any:
        assert self.read is not None  # noqa: S101 - for mypy
        return self.read(source)


class Schema:
    """Reads values that were written with one schema.

    Args:
        text: The schema as JSON.
        references: The schemas whose names it uses, each after those that it uses itself.

    Raises:
        ValueError: When it is none.
    """

    def __init__(self, text: str, references: Sequence[str] = ()) -> None:
        compiler = _Compiler()
        try:
            for reference in references:
                compiler.compile(json.loads(reference), "")
            schema = json.loads(text)
            read = compiler.compile(schema, "")
        except RecursionError:
            raise ValueError("the schema is nested too deeply") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the schema is not one of Avro's ({error})") from None
        # Java's serializer writes an array of bytes as it is, without its length.
        self._read = _rest if schema in ("bytes", {"type": "bytes"}) else read

    def value(self, body: bytes) -> Any:
        """The value that is encoded in `body`, as the data that JSON has.

        Raises:
            ValueError: When the bytes do not fit the schema.
        """
        source = _Source(body)
        try:
            value = self._read(source)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if left := len(body) - source.at:
            raise ValueError(f"{left} bytes are left over behind the value")
        return value


class _Compiler:
    """Makes functions of schemas, and knows the names that these define."""

    def __init__(self) -> None:
        self._names: dict[str, _Named] = {}

    def compile(self, schema: Any, namespace: str) -> _Read:
        """What reads values of a schema.

        Args:
            schema: JSON data.
            namespace: For names without one.
        """
        if isinstance(schema, str):
            return _PRIMITIVES.get(schema) or self._known(schema, namespace)
        if isinstance(schema, list):
            return _union([self.compile(branch, namespace) for branch in schema])
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.compile(kind, namespace)
        if kind == "array":
            return _array(self.compile(schema["items"], namespace))
        if kind == "map":
            return _map(self.compile(schema["values"], namespace))
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(kind, schema, namespace)
        logical = LOGICAL.get((kind, schema.get("logicalType")))
        made = logical(schema) if logical is not None else None
        if made is not None:
            return _converted(_RAW.get(kind) or _PRIMITIVES[kind], made)
        return self.compile(kind, namespace)

    def _define(self, kind: str, schema: Mapping[str, Any], namespace: str) -> _Read:
        full = _full_name(schema["name"], schema.get("namespace", namespace))
        named = self._names[full] = _Named()
        if kind == "enum":
            named.read = _enum([str(symbol) for symbol in schema["symbols"]])
        elif kind == "fixed":
            named.read = _fixed(schema)
        else:
            inner = full.rpartition(".")[0]
            fields = schema["fields"]
            named.read = _record(
                [(str(field["name"]), self.compile(field["type"], inner)) for field in fields]
            )
        return named.read

    def _known(self, name: str, namespace: str) -> _Read:
        named = self._names.get(_full_name(name, namespace)) or self._names.get(name)
        if named is None:
            raise ValueError(f"the schema has a type {name[:80]!r} that nothing defines")
        return named.read or named


def _full_name(name: str, namespace: str | None) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _null(source: _Source) -> None:
    del source


def _boolean(source: _Source) -> bool:
    return source.take(1) != b"\0"


def _long(source: _Source) -> int:
    data, at = source.data, source.at
    number = shift = 0
    while True:
        if at >= len(data):
            raise _BrokenError("the message ends too early")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > MAX_VARINT_BITS:
            raise _BrokenError("a number of more than 64 bits")
    source.at = at
    return (number >> 1) ^ -(number & 1)


def _float(source: _Source) -> float | str:
    return _as_json(_FLOAT.unpack(source.take(4))[0])


def _double(source: _Source) -> float | str:
    return _as_json(_DOUBLE.unpack(source.take(8))[0])


def _as_json(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _raw_bytes(source: _Source) -> bytes:
    return source.take(_long(source))


def _bytes(source: _Source) -> str:
    return base64.b64encode(_raw_bytes(source)).decode("ascii")


def _rest(source: _Source) -> str:
    return base64.b64encode(source.take(len(source.data))).decode("ascii")


def _string(source: _Source) -> str:
    try:
        return _raw_bytes(source).decode("utf-8")
    except UnicodeDecodeError:
        raise _BrokenError("a text that is not UTF-8") from None


_PRIMITIVES: Mapping[str, _Read] = {
    "null": _null,
    "boolean": _boolean,
    "int": _long,
    "long": _long,
    "float": _float,
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}
_RAW: Mapping[str, _Read] = {"bytes": _raw_bytes}
"""What logical types are made from, where that is not what the plain type becomes."""


def _fixed(schema: Mapping[str, Any]) -> _Read:
    size = schema["size"]
    if not isinstance(size, int) or size < 0:
        raise ValueError("the schema has a fixed type without a size")
    logical = LOGICAL.get(("fixed", schema.get("logicalType")))
    made = logical(schema) if logical is not None else None
    return _converted(
        lambda source: source.take(size),
        made or (lambda raw: base64.b64encode(raw).decode("ascii")),
    )


def _converted(read: _Read, convert: Callable[[Any], Any]) -> _Read:
    def converted(source: _Source) -> Any:
        found = read(source)
        try:
            return convert(found)
        except ValueError as error:
            raise _BrokenError(str(error)) from None

    return converted


def _enum(symbols: list[str]) -> _Read:
    def enum(source: _Source) -> str:
        index = _long(source)
        if not 0 <= index < len(symbols):
            raise _BrokenError(f"an enum of {len(symbols)} symbols has none of number {index}")
        return symbols[index]

    return enum


def _union(branches: list[_Read]) -> _Read:
    def union(source: _Source) -> Any:
        index = _long(source)
        if not 0 <= index < len(branches):
            raise _BrokenError(f"a union of {len(branches)} branches has none of number {index}")
        return branches[index](source)

    return union


def _record(fields: list[tuple[str, _Read]]) -> _Read:
    def record(source: _Source) -> dict[str, Any]:
        source.spend(1)
        value: dict[str, Any] = {}
        name = ""
        try:
            for name, read in fields:
                value[name] = read(source)
        except _BrokenError as error:
            error.path.append(name)
            raise
        return value

    return record


def _array(read: _Read) -> _Read:
    def array(source: _Source) -> list[Any]:
        value: list[Any] = []
        while count := _block(source):
            value.extend([read(source) for _ in range(count)])
        return value

    return array


def _map(read: _Read) -> _Read:
    def mapping(source: _Source) -> dict[str, Any]:
        value: dict[str, Any] = {}
        while count := _block(source):
            for _ in range(count):
                key = _string(source)
                value[key] = read(source)
        return value

    return mapping


def _block(source: _Source) -> int:
    """How many items come next; a negative number is followed by their size in bytes."""
    count = _long(source)
    if count < 0:
        count = -count
        _long(source)
    source.spend(count)
    return count
