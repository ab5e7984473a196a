"""How large values in templates may grow, measured before they do. Pure.

`"x" * 10**10` is one harmless looking expression, and so are `"%999999d" * 1000` as a format and
`text | replace("a", text)`. Each function here raises `SecurityError` when the outcome of an
operation would be larger than anybody needs; Jinja2's own sandbox has no such limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

MAX_SIZE = 10 * 1024 * 1024
"""Characters that a rendered text, or any value on the way to it, may have."""

_MAX_BITS = 14_000
"""Largest integer, in bits: Python, and JSON readers, write and read numbers of 4,300 digits."""
_MAX_DIGITS = 4_300
_MAX_SIZING = 1_000_000
"""Largest integer argument of the filters below: a width or a count."""
_MAX_PRECISION = 1_000

_TEXTS = (str, bytes)
_NUMBERS = (int, float, type(None))
_LISTS = (list, tuple, set, frozenset)

_EACH = 8
"""What an item weighs beside its characters: in memory it is a reference at least."""

_SIZING_FILTERS = frozenset({"batch", "center", "indent", "slice", "truncate"})
_TAKING_APART = frozenset(
    {
        *("batch", "groupby", "join", "list", "map", "max", "min", "reject", "select", "slice"),
        *("sort", "title", "unique"),
    }
)
"""Filters that make an item of each character, or word, of a text."""
_PERCENT_FIELD = re.compile(r"%(?:\([^)]*\))?[ #+\-0]*([0-9]*)(?:\.([0-9]+))?")
_BRACE_FIELD = re.compile(r"\{[^{}]*[{}]")
_NUMBER = re.compile(r"[0-9]+")


def check(size: int) -> None:
    """Refuse a size beyond `MAX_SIZE`.

    Raises:
        SecurityError: With the limit.
    """
    if size > MAX_SIZE:
        raise SecurityError(f"a value would exceed {MAX_SIZE // 1024 // 1024} MiB")


def weight(value: Any) -> int:
    """Characters that `value` has when written out, roughly; stops counting beyond the limit."""
    if isinstance(value, _TEXTS):
        return len(value)
    total = 0
    pending: list[Any] = [(value,)]
    # By class, as this runs for every item of every list in a template.
    while pending and total <= MAX_SIZE:
        for item in pending.pop():
            if isinstance(item, _TEXTS):
                total += _EACH + len(item)
            else:
                total += _EACH
                if isinstance(item, _LISTS):
                    pending.append(item)
                elif not isinstance(item, _NUMBERS) and isinstance(item, Mapping):
                    pending += (item.keys(), item.values())
            if total > MAX_SIZE:
                break
    return total


def check_binop(operator: str, left: Any, right: Any) -> None:
    """Refuse `left operator right` if its outcome would be too large.

    Raises:
        SecurityError: If so.
    """
    if isinstance(left, int) and isinstance(right, int):
        _check_integers(operator, left, right)
    elif operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and isinstance(sequence, str | bytes | list | tuple):
            check(weight(sequence) * times)
    elif operator == "+" and isinstance(left, str | bytes | list | tuple):
        check(weight(left) + weight(right) if isinstance(right, type(left)) else 0)
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right if isinstance(right, tuple) else (right,))


def check_method(
    owner: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Measure a call of a method of `str`; returns the arguments to call it with.

    Raises:
        SecurityError: If its outcome would be too large.
    """
    if name in ("format", "format_map"):
        _check_braces(owner, [*args, *kwargs.values()])
    elif name == "join" and args:
        _check_characters(args[0])
        args = (_checked_join(owner, args[0]),)
    elif name in ("rsplit", "split", "splitlines"):
        _check_split(owner, _given(args, kwargs, 0, "sep") if name != "splitlines" else None)
    elif name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    elif name in ("center", "ljust", "rjust", "zfill"):
        check(max((arg for arg in args if isinstance(arg, int)), default=0))
    return args


def check_filter(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Measure a call of a filter; returns the arguments to call it with.

    Raises:
        SecurityError: If what it is given, or its outcome, would be too large.
    """
    for argument in (*args, *kwargs.values()):
        check(weight(argument))
        _check_sizing(name, argument)
    if name in _TAKING_APART and args:
        _check_characters(args[0])
    special = _SPECIAL.get(name)
    return args if special is None else special(args, kwargs)


def _check_sizing(name: str, argument: Any) -> None:
    if not isinstance(argument, int):
        return
    limit = _MAX_PRECISION if name == "round" else _MAX_SIZING
    if (name == "round" or name in _SIZING_FILTERS) and abs(argument) > limit:
        raise SecurityError(f"{name}: {argument} is too large")


def _check_integers(operator: str, left: int, right: int) -> None:
    bits = left.bit_length()
    grown = bits * right if operator == "**" else bits + right.bit_length()
    if operator in ("*", "**") and grown > _MAX_BITS:
        raise SecurityError("a number would have too many digits")


def _check_percent(text: str, arguments: Iterable[Any]) -> None:
    """Refuse `%` when widths are huge, or one long argument is written many times."""
    arguments = list(arguments)
    size = len(text) + text.count("%") * max(map(weight, arguments), default=0)
    widest = max((abs(a) for a in arguments if isinstance(a, int)), default=0)
    size += text.count("*") * widest if "*" in text else 0
    for width, precision in _PERCENT_FIELD.findall(text):
        size += _number(width) + _number(precision)
    check(size)


def _check_braces(text: str, arguments: Iterable[Any]) -> None:
    """The same for `str.format`."""
    size = len(text) + text.count("{") * max(map(weight, arguments), default=0)
    for field in _BRACE_FIELD.findall(text.replace("{{", "")):
        if field.endswith("{"):
            raise SecurityError("a width in the format must not itself be a field")
        size += sum(map(_number, _NUMBER.findall(field.partition(":")[2])))
    check(size)


def _number(digits: str) -> int:
    """Digits as a number; more of them than any width has as one beyond every limit."""
    return int(digits or 0) if len(digits) < 10 else MAX_SIZE + 1


def _checked_join(separator: str, items: Iterable[Any]) -> list[Any]:
    kept = list(items)
    check(sum(map(weight, kept)) + len(separator) * len(kept))
    return kept


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        # What is empty is found between all characters.
        check(len(text) + text.count(old) * len(new))


def _check_split(text: str, separator: Any) -> None:
    """Refuse to make a list of very many short texts; of white space there may be all too much."""
    if isinstance(separator, str) and separator:
        check(len(text) + _EACH * (text.count(separator) + 1))
    else:
        _check_characters(text)


def _check_characters(value: Any) -> None:
    """Refuse to take a long text apart."""
    if isinstance(value, _TEXTS) and (1 + _EACH) * len(value) > MAX_SIZE:
        raise SecurityError(f"a text of {len(value):,} characters is too long to be taken apart")


def _format(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    _check_percent(str(args[0]), [*args[1:], *kwargs.values(), *([kwargs] if kwargs else [])])
    return args


def _replace(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    old, new = _given(args, kwargs, 1, "old"), _given(args, kwargs, 2, "new")
    _check_replace(str(args[0]), str(old), str(new))
    return args


def _join(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    separator = args[1] if len(args) > 1 else kwargs.get("d", "")
    return (_checked_join(str(separator), args[0]), *args[1:])


def _indent(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    width = _given(args, kwargs, 1, "width")
    size = len(width) if isinstance(width, str) else int(width or 4)
    text = str(args[0])
    check(len(text) + size * (len(text.splitlines()) + 1))
    return args


def _batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    count, fill = _given(args, kwargs, 1, "linecount"), _given(args, kwargs, 2, "fill_with")
    check(weight(fill) * int(count or 0))
    return args


def _slice(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    count, fill = _given(args, kwargs, 1, "slices"), _given(args, kwargs, 2, "fill_with")
    check(weight(fill) * int(count or 0))
    return args


def _sum(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    # Lists would be copied once for every list.
    start = _given(args, kwargs, 2, "start")
    if start is not None and not isinstance(start, int | float):
        raise SecurityError("sum: start is no number")
    return args


def _int(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    # Python limits the digits of base 10 only.
    if isinstance(args[0], str) and len(args[0]) > _MAX_DIGITS:
        raise SecurityError("a number would have too many digits")
    return args


def _urlencode(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    # Three characters for each of up to four bytes.
    check(12 * weight(args[0]))
    return args


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


_SPECIAL = {
    "batch": _batch,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "replace": _replace,
    "slice": _slice,
    "sum": _sum,
    "urlencode": _urlencode,
}
