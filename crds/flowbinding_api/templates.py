"""The template language: sandboxed Jinja2, strict about undefined names.

Lives beside the models because a template is part of what a manifest may say: the operator rejects
a broken one with the field's path before any worker starts, and the worker compiles the same text
once and runs it for every message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = (
    "value",
    "text",
    "key",
    "headers",
    "topic",
    "partition",
    "offset",
    "timestamp",
    "binding",
)
"""Names that every template sees. Templates of the output also see `result`."""


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def environment() -> ImmutableSandboxedEnvironment:
    """A new environment: no files, no includes, no autoescape, undefined names raise."""
    # Results are JSON and prompts, never HTML.
    env = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    env.filters["tojson"] = _tojson
    return env


def checked_template(text: str) -> str:
    """`text` itself.

    Raises:
        ValueError: With line and reason, when it is no template.
    """
    try:
        _CHECKER.compile(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"template line {error.lineno}: {error.message}") from None
    return text


def checked_expression(text: str) -> str:
    """`text` itself.

    Raises:
        ValueError: With the reason, when it is no expression.
    """
    try:
        _CHECKER.compile_expression(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"expression line {error.lineno}: {error.message}") from None
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


_CHECKER = environment()
