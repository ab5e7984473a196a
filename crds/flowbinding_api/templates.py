"""The template language: sandboxed Jinja2, strict about undefined names.

Lives beside the models because a template is part of what a manifest may say: the operator rejects
a broken one with the field's path before any worker starts, and the worker compiles the same text
once and runs it for every message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flowbinding_api.errors import Problem
from flowbinding_api.spec import FlowBindingSpec

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


def template_fields(spec: FlowBindingSpec) -> Iterator[tuple[str, str]]:
    """Every template in a spec as (field path, text)."""
    yield "spec.flow.input", spec.flow.input
    yield "spec.flow.sessionId", spec.flow.session_id
    yield from _leaves("spec.flow.tweaks", spec.flow.tweaks)
    if spec.output is not None:
        yield "spec.output.key", spec.output.key
        if spec.output.value is not None:
            yield "spec.output.value", spec.output.value


def template_problems(spec: FlowBindingSpec) -> list[Problem]:
    """Syntax errors of all templates and expressions, each with its field and line."""
    env = environment()
    problems = []
    for path, text in template_fields(spec):
        try:
            env.compile(text)
        except TemplateSyntaxError as error:
            problems.append(Problem(path, f"template line {error.lineno}: {error.message}"))
    if spec.source.filter is not None:
        try:
            env.compile_expression(spec.source.filter, undefined_to_none=False)
        except TemplateSyntaxError as error:
            problems.append(Problem("spec.source.filter", f"expression: {error.message}"))
    return problems


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}[{index}]", item)
