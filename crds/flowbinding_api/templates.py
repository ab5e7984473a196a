"""The template language: sandboxed Jinja2, strict about names, bounded in memory and time.

Lives beside the models because a template is part of what a manifest may say: the operator rejects
a broken one with the field's path before any worker starts, and the worker compiles the same text
once and runs it for every message.

What Jinja2's own sandbox leaves open is how large a value may grow and how long a rendering may
take. So nothing is folded at compile time; whatever can multiply its input is measured first (see
`template_limits`); all that one rendering makes is added up; and the generated code looks at the
thread's CPU clock in each round of a loop, each macro, each call, filter and test.

Two things differ from plain Jinja2, because templates write prompts and JSON rather than HTML:
objects, lists and booleans appear in text as JSON, and None as nothing.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, cast

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flowbinding_api.template_code import Generator, Names
from flowbinding_api.template_limits import (
    MAX_SIZE,
    check,
    check_binop,
    check_filter,
    check_method,
    weight,
)

__all__ = [
    "MAX_SECONDS",
    "MAX_SIZE",
    "MAX_TEMPLATE",
    "MESSAGE_NAMES",
    "REQUEST_NAMES",
    "RESULT_NAMES",
    "Environment",
    "check_size",
    "checked_expression",
    "checked_leaves",
    "checked_template",
    "environment",
]

MAX_SECONDS = 1.0
"""CPU time that one rendering may take; an ordinary one takes some 20 µs."""

MAX_MADE = 8 * MAX_SIZE
"""Characters that one rendering may make in all, what it throws away included."""

MAX_TEMPLATE = 65_536
"""Characters of a template in a manifest, or of all in one tree of data."""

_LARGE = 4096

MESSAGE_NAMES = frozenset(
    {
        *("value", "text", "key", "headers", "topic", "partition", "offset", "timestamp"),
        *("binding", "event"),
    }
)
"""What templates see of a message; `payload.decode` in the worker makes them."""

REQUEST_NAMES = MESSAGE_NAMES | {"input", "session", "flow"}
"""What templates of an HTTP request see."""

RESULT_NAMES = MESSAGE_NAMES | {"result"}
"""What templates of the output see."""

_UNBOUNDED_METHODS = frozenset(
    {"encode", "expandtabs", "from_bytes", "striptags", "to_bytes", "translate"}
)
_UNBOUNDED_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
"""For HTML and for debugging; their time or their outcome grows with the square of the input."""


_Do = Callable[..., Any]


class _Buffer(list[str]):
    """What a macro or a block has written, measured as it is written."""

    def __init__(self, env: Environment) -> None:
        super().__init__()
        self._made = env.made

    def append(self, part: str) -> None:
        super().append(self._made(part))

    def extend(self, parts: Iterable[str]) -> None:
        super().extend(self._made(part) for part in parts)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, bounded. One rendering at a time: it counts what that one has used."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        # Results are JSON and prompts, never HTML.
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            optimized=False,
            finalize=_text,
        )
        self.filters["tojson"] = _tojson
        for name in _UNBOUNDED_FILTERS:
            del self.filters[name]
        self.filters = {name: self._bounded(name, do) for name, do in self.filters.items()}
        self.tests = {name: self._ticking(cast(_Do, do)) for name, do in self.tests.items()}
        del self.globals["lipsum"]
        self._seconds = seconds
        self._until = 0.0
        self._made = 0

    def begin(self) -> None:
        """A rendering begins; generated code says so."""
        self._until = time.thread_time() + self._seconds
        self._made = 0

    def tick(self) -> None:
        """Go on, if there is time left.

        Raises:
            SecurityError: If there is none.
        """
        if time.thread_time() > self._until:
            raise SecurityError(f"takes more than {self._seconds:g} s of CPU time")

    def made(self, value: Any) -> Any:
        """`value` itself, if it is of reasonable size, as is all that was made before.

        Raises:
            SecurityError: If not.
        """
        size = weight(value)
        check(size)
        if size > _LARGE:
            # To have measured it takes its time.
            self.tick()
        self._made += size
        if self._made > MAX_MADE:
            raise SecurityError(f"makes more than {MAX_MADE // 1024 // 1024} MiB on the way")
        return value

    def buffer(self) -> list[str]:
        """Where generated code collects text."""
        return _Buffer(self)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a template has written; also used within macros and blocks."""
        kept = []
        size = 0
        for part in parts:
            kept.append(part)
            size += len(part)
            check(size)
        return "".join(kept)

    def concat_text(self, parts: Iterable[Any]) -> Any:
        """The `~` operator."""
        return self.made(self.concat([str(_text(part)) for part in parts]))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the outcome is of reasonable size."""
        check_binop(operator, left, right)
        return self.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method, if the outcome is of reasonable size."""
        self.tick()
        for argument in (*args, *kwargs.values()):
            check(weight(argument))
        method = getattr(target, "__wrapped__", target)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = check_method(owner, method.__name__, args, kwargs)
        return self.made(super().call(context, target, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As Jinja2 does; the filters' `attribute` may name a way of any length."""
        self.tick()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also refuses methods whose outcome cannot be told from their arguments."""
        return attr not in _UNBOUNDED_METHODS and super().is_safe_attribute(obj, attr, value)

    def _bounded(self, name: str, do: _Do) -> _Do:
        """A filter that first measures what it is given."""
        # The environment or context that Jinja2 passes first is no input of the template's author.
        first = 1 if hasattr(do, "jinja_pass_arg") else 0

        @functools.wraps(do)
        def measured(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            own = check_filter(name, args[first:], kwargs)
            return self.made(do(*args[:first], *own, **kwargs))

        return measured

    def _ticking(self, do: _Do) -> _Do:
        """A test that takes part in the time limit: `select` runs one for every item."""

        @functools.wraps(do)
        def ticking(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return do(*args, **kwargs)

        return ticking


def environment(seconds: float = MAX_SECONDS) -> Environment:
    """A new environment: no files, no includes, no autoescape, undefined names raise.

    Args:
        seconds: CPU time that one rendering may take.
    """
    return Environment(seconds)


def checked_template(text: str, names: Collection[str] = MESSAGE_NAMES) -> str:
    """`text` itself.

    Args:
        text: A template.
        names: The variables that it may use.

    Raises:
        ValueError: With line and reason, when it is no template, or uses what there is not.
    """
    return _checked(text, "template", frozenset(names))


def checked_expression(text: str, names: Collection[str] = MESSAGE_NAMES) -> str:
    """`text` itself.

    Args:
        text: An expression, without braces.
        names: The variables that it may use.

    Raises:
        ValueError: With line and reason, when it is no expression, or uses what there is not.
    """
    return _checked(text, "expression", frozenset(names))


# The operator parses each binding at each reconcile, and many bindings say the same.
@functools.lru_cache(maxsize=1024)
def _checked(text: str, what: str, names: frozenset[str]) -> str:
    try:
        if what == "expression":
            _CHECKER.compile_expression(text)
            # A line of its own: what ends in a comment must not hide the end.
            text_of = "{{" + f" {text}\n" + "}}"
        else:
            _CHECKER.compile(text)
            text_of = text
        _check_nodes(_CHECKER.parse(text_of), names)
    except TemplateSyntaxError as error:
        raise ValueError(f"{what} line {error.lineno}: {error.message}") from None
    except _TOO_DEEP:
        raise ValueError(f"the {what} is nested too deeply") from None
    except ValueError:
        raise ValueError(f"the {what} has a number of too many digits") from None
    return text


def _check_nodes(template: nodes.Template, names: Collection[str]) -> None:
    """Refuse what would fail for every message."""
    for other in template.find_all(_OTHER_TEMPLATES):
        raise TemplateSyntaxError("a template cannot load another one", other.lineno)
    finder = Names(_CHECKER)
    finder.visit(template)
    unknown = finder.found - set(names) - _CHECKER.globals.keys()
    for node in template.find_all(nodes.Name):
        if node.name in unknown:
            known = ", ".join(sorted(names))
            raise TemplateSyntaxError(f"unknown name {node.name!r}; known are {known}", node.lineno)


def checked_leaves(value: Any, names: Collection[str] = MESSAGE_NAMES) -> Any:
    """`value` itself, after every string anywhere in it was checked as a template.

    Raises:
        ValueError: Naming the path below `value` as well; also when the templates are longer than
            `MAX_TEMPLATE` together: to compile a megabyte takes 13 s and 850 MB.
    """
    size = 0
    for path, text in _leaves(value):
        size += len(text) if any(mark in text for mark in _MARKS) else 0
        if size > MAX_TEMPLATE:
            raise ValueError(f"the templates have more than {MAX_TEMPLATE:,} characters in all")
        try:
            checked_template(text, names)
        except ValueError as error:
            raise ValueError(f"{path.lstrip('.')}: {error}" if path else str(error)) from None
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string, with the path that leads to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")


def check_size(value: Any) -> None:
    """Refuse a value that would be written as more than `MAX_SIZE` characters.

    Raises:
        jinja2.exceptions.SecurityError: When it would.
    """
    check(weight(value))


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
        check(len(value))
    return value


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


_MARKS = ("{{", "{%", "{#")

_OTHER_TEMPLATES = (nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)

_TOO_DEEP = (RecursionError, SyntaxError, MemoryError)
"""What the compiler raises on expressions that are nested too deeply."""

_CHECKER = environment()
