"""The template language: sandboxed Jinja2, strict about undefined names, bounded in memory.

Lives beside the models because a template is part of what a manifest may say: the operator rejects
a broken one with the field's path before any worker starts, and the worker compiles the same text
once and runs it for every message.

What Jinja2's own sandbox leaves open is how large a value may grow: `"x" * 10**10` is one harmless
looking expression, and as a constant it would even be computed while compiling, in the operator.
So nothing is folded at compile time, and whatever can multiply its input is measured first. What
is not limited is time: loops within loops over long lists take as long as they take.

Two things differ from plain Jinja2, because templates write prompts and JSON rather than HTML:
objects, lists and booleans appear in text as JSON, and None as nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from types import GeneratorType
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SIZE = 10 * 1024 * 1024
"""Characters that a rendered text, or any value on the way to it, may have."""

_MAX_BITS = 65_536
"""Largest integer, in bits: far beyond what JSON readers take, far below what takes seconds."""

_MAX_SIZING = 1_000_000
"""Largest integer argument of the filters below: a width or a count."""

_SIZING_FILTERS = frozenset({"batch", "center", "indent", "round", "slice"})
_UNBOUNDED_METHODS = frozenset({"expandtabs", "translate", "to_bytes", "from_bytes"})
_PERCENT_WIDTH = re.compile(r"[%).][ #+\-0]*[0-9]{7,}")
_BRACE_FIELD = re.compile(r"\{[^{}]*[{}]")
_SEVEN_DIGITS = re.compile(r"[0-9]{7,}")


class _Generator(CodeGenerator):
    """Generates code that evaluates nothing while compiling, and measures `~`."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.concat_text((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with every operation measured that could make much out of little."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Results are JSON and prompts, never HTML.
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            optimized=False,
            finalize=_text,
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: _bounded(name, do) for name, do in self.filters.items()}
        del self.globals["lipsum"]

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a template has written; also used within macros and blocks."""
        kept = []
        size = 0
        for part in parts:
            kept.append(part)
            size += len(part)
            _check(size)
        return "".join(kept)

    @staticmethod
    def concat_text(parts: Iterable[Any]) -> str:
        """The `~` operator."""
        return Environment.concat([str(_text(part)) for part in parts])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the outcome is of reasonable size."""
        _check_binop(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method, if the outcome is of reasonable size."""
        method = getattr(target, "__wrapped__", target)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = _check_method(owner, method.__name__, args, kwargs)
        return super().call(context, target, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also refuses methods whose outcome cannot be told from their arguments."""
        return attr not in _UNBOUNDED_METHODS and super().is_safe_attribute(obj, attr, value)


def environment() -> Environment:
    """A new environment: no files, no includes, no autoescape, undefined names raise."""
    return Environment()


def checked_template(text: str) -> str:
    """`text` itself.

    Raises:
        ValueError: With line and reason, when it is no template.
    """
    return _checked(text, "template", _CHECKER.compile)


def checked_expression(text: str) -> str:
    """`text` itself.

    Raises:
        ValueError: With line and reason, when it is no expression.
    """
    return _checked(text, "expression", _CHECKER.compile_expression)


def _checked(text: str, what: str, compiled: Callable[[str], object]) -> str:
    try:
        compiled(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"{what} line {error.lineno}: {error.message}") from None
    except _TOO_DEEP:
        raise ValueError(f"{what}: nested too deeply") from None
    return text


def checked_leaves(value: Any, path: str = "") -> Any:
    """`value` itself, after every string anywhere in it was checked as a template.

    Raises:
        ValueError: Naming the path below `value` as well.
    """
    if isinstance(value, str):
        try:
            checked_template(value)
        except ValueError as error:
            raise ValueError(f"{path.lstrip('.')}: {error}" if path else str(error)) from None
    elif isinstance(value, Mapping):
        for key, item in value.items():
            checked_leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            checked_leaves(item, f"{path}[{index}]")
    return value


def check_size(value: Any) -> None:
    """Refuse a value that would be written as more than `MAX_SIZE` characters.

    Raises:
        jinja2.exceptions.SecurityError: When it would.
    """
    _check(_weight(value))


def _text(value: Any) -> Any:
    """How an expression's value appears in text."""
    if value is None:
        return ""
    if isinstance(value, GeneratorType):
        value = list(value)
    if isinstance(value, bool | dict | list | tuple):
        check_size(value)
        return _tojson(value)
    if isinstance(value, str):
        _check(len(value))
    return value


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _check(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError(f"a value would exceed {MAX_SIZE // 1024 // 1024} MiB")


def _weight(value: Any) -> int:
    """Characters that `value` has when written out, roughly; stops counting beyond the limit."""
    if isinstance(value, str | bytes):
        return len(value)
    total = 0
    pending: list[Any] = [value]
    while pending and total <= MAX_SIZE:
        item = pending.pop()
        total += len(item) if isinstance(item, str | bytes) else 8
        if isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return total


def _check_binop(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_integers(operator, left, right)
    elif operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and isinstance(sequence, str | bytes | list | tuple):
            _check(len(sequence) * times)
    elif operator == "+" and isinstance(left, str | bytes | list | tuple):
        _check(len(left) + len(right) if isinstance(right, type(left)) else 0)
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right if isinstance(right, tuple) else (right,))


def _check_integers(operator: str, left: int, right: int) -> None:
    bits = left.bit_length()
    grown = bits * right if operator == "**" else bits + right.bit_length()
    if operator in ("*", "**") and grown > _MAX_BITS:
        raise SecurityError("a number would have too many digits")


def _check_percent(text: str, arguments: Iterable[Any]) -> None:
    """Refuse `%` when a width is huge or one long argument is written many times."""
    arguments = list(arguments)
    if "*" in text and any(isinstance(a, int) and abs(a) > _MAX_SIZING for a in arguments):
        raise SecurityError("a width in the format is too large")
    if _PERCENT_WIDTH.search(text):
        raise SecurityError("a width in the format is too large")
    _check(len(text) + text.count("%") * max(map(_weight, arguments), default=0))


def _check_braces(text: str, arguments: Iterable[Any]) -> None:
    """The same for `str.format`."""
    for field in _BRACE_FIELD.findall(text.replace("{{", "")):
        if field.endswith("{") or _SEVEN_DIGITS.search(field):
            raise SecurityError("a width in the format is too large or itself a field")
    _check(len(text) + text.count("{") * max(map(_weight, arguments), default=0))


def _check_method(
    owner: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Measure a call of a method of `str`; returns the arguments to call it with."""
    if name in ("format", "format_map"):
        _check_braces(owner, [*args, *kwargs.values()])
    elif name == "join" and args:
        args = (_checked_join(owner, args[0]),)
    elif name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    elif name in ("center", "ljust", "rjust", "zfill"):
        _check(max((arg for arg in args if isinstance(arg, int)), default=0))
    return args


def _checked_join(separator: str, items: Iterable[Any]) -> list[Any]:
    kept = list(items)
    _check(sum(map(_weight, kept)) + len(separator) * len(kept))
    return kept


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check(len(text) + text.count(old) * len(new))


def _bounded(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that first measures what it is given."""
    # The environment or context that Jinja2 passes first is no input of the template's author.
    first = 1 if hasattr(do, "jinja_pass_arg") else 0

    @functools.wraps(do)
    def measured(*args: Any, **kwargs: Any) -> Any:
        for argument in (*args[first:], *kwargs.values()):
            check_size(argument)
            if (
                name in _SIZING_FILTERS
                and isinstance(argument, int)
                and abs(argument) > _MAX_SIZING
            ):
                raise SecurityError(f"{name}: {argument} is too large")
        args = (*args[:first], *_check_filter(name, args[first:], kwargs))
        return do(*args, **kwargs)

    return measured


def _check_filter(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Measure the filters whose outcome is a product; returns the arguments to call it with."""
    if name == "format":
        _check_percent(str(args[0]), [*args[1:], *kwargs.values()])
    elif name == "replace" and len(args) >= 3:
        _check_replace(str(args[0]), args[1], args[2])
    elif name == "join":
        separator = args[1] if len(args) > 1 else kwargs.get("d", "")
        args = (_checked_join(str(separator), args[0]), *args[1:])
    return args


_TOO_DEEP = (RecursionError, SyntaxError, MemoryError)
"""What the compiler raises on expressions that are nested too deeply."""

_CHECKER = environment()
