"""Compiled templates, and what a message sees when one of them fails."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from jinja2 import Template, Undefined, nodes
from jinja2.runtime import Context

from flowbinding_api.templates import Environment, check_size
from flowbinding_worker.ports import Failure, ProcessingError, Stage

Variables = dict[str, Any]


class TextTemplate:
    """A template whose outcome is text.

    Args:
        env: The sandbox.
        field: Path of the field, for messages.
        text: A template that parses.
    """

    def __init__(self, env: Environment, field: str, text: str) -> None:
        self._env = env
        self._field = field
        self._template = env.from_string(text)
        self._constant = _constant(env.parse(text))

    def render(self, variables: Variables) -> str:
        """The text for one message.

        Raises:
            ProcessingError: POISON with reason TemplateFailed.
        """
        if self._constant is not None:
            return self._constant
        template = self._template
        try:
            context = _context(template, variables)
            return self._env.concat(template.root_render_func(context))
        # A template can raise whatever its operators and methods raise.
        except Exception as error:  # noqa: BLE001
            raise _failed(self._field, template, error) from None


class NativeTemplate:
    """A single expression whose outcome keeps its type.

    Args:
        env: The sandbox.
        field: Path of the field, for messages.
        expression: The expression, parsed.
    """

    def __init__(self, env: Environment, field: str, expression: nodes.Expr) -> None:
        self._field = field
        self._expression = expression
        assignment = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
        self._template = env.from_string(nodes.Template([assignment], lineno=1))

    @classmethod
    def of_expression(cls, env: Environment, field: str, text: str) -> NativeTemplate:
        """Compile an expression without braces."""
        expression = single_expression(env, "{{" + f" {text} " + "}}")
        if expression is None:
            raise ValueError(f"{field}: not one expression: {text}")
        return cls(env, field, expression)

    @property
    def name(self) -> str | None:
        """The variable's name, when the expression is nothing but a variable."""
        return self._expression.name if isinstance(self._expression, nodes.Name) else None

    def render(self, variables: Variables) -> Any:
        """The value for one message, as JSON data.

        Raises:
            ProcessingError: POISON with reason TemplateFailed.
        """
        try:
            value = _plain(self._evaluate(variables))
            check_size(value)
        except Exception as error:  # noqa: BLE001
            raise _failed(self._field, self._template, error) from None
        return value

    def truth(self, variables: Variables) -> bool:
        """Whether the expression holds for one message.

        Raises:
            ProcessingError: POISON with reason TemplateFailed.
        """
        try:
            return bool(self._evaluate(variables))
        except Exception as error:  # noqa: BLE001
            raise _failed(self._field, self._template, error) from None

    def _evaluate(self, variables: Variables) -> Any:
        context = _context(self._template, variables)
        for _ in self._template.root_render_func(context):
            pass
        return context.vars["result"]


def single_expression(env: Environment, text: str) -> nodes.Expr | None:
    """The expression that a template consists of: `{{ … }}` with at most blanks around it."""
    body = env.parse(text.strip()).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output):
        return None
    parts = body[0].nodes
    return parts[0] if len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData) else None


def compile_tweaks(env: Environment, field: str, value: Any) -> Any:
    """`value` with every string replaced by its compiled template; keys are not templates.

    A string that is one expression keeps the type of what it gives (`"{{ value.limit }}"` is a
    number where the message has a number); any other string gives text.
    """
    if isinstance(value, str):
        expression = single_expression(env, value)
        if expression is not None:
            return NativeTemplate(env, field, expression)
        return TextTemplate(env, field, value)
    if isinstance(value, Mapping):
        return {key: compile_tweaks(env, f"{field}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [compile_tweaks(env, f"{field}[{index}]", item) for index, item in enumerate(value)]
    return value


def render_tweaks(compiled: Any, variables: Variables) -> Any:
    """A fresh copy of compiled tweaks, rendered for one message."""
    if isinstance(compiled, TextTemplate | NativeTemplate):
        return compiled.render(variables)
    if isinstance(compiled, dict):
        return {key: render_tweaks(item, variables) for key, item in compiled.items()}
    if isinstance(compiled, list):
        return [render_tweaks(item, variables) for item in compiled]
    return compiled


def _context(template: Template, variables: Variables) -> Context:
    """As `Template.new_context` makes it, which takes its time to walk a chain of globals."""
    env = template.environment
    return Context(env, {**env.globals, **variables}, template.name, template.blocks)


def _constant(template: nodes.Template) -> str | None:
    """The text of a template without any expression or statement; most templates of tweaks."""
    parts = [
        part
        for node in template.body
        for part in (node.nodes if isinstance(node, nodes.Output) else [node])
    ]
    if all(isinstance(part, nodes.TemplateData) for part in parts):
        return "".join(part.data for part in parts if isinstance(part, nodes.TemplateData))
    return None


def _plain(value: Any) -> Any:
    """`value` as JSON data: an undefined name raises, generators become lists."""
    if isinstance(value, Undefined):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _failed(field: str, template: Template, error: Exception) -> ProcessingError:
    line = _line(template, error.__traceback__)
    what = str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        what = "nested too deeply"
    return ProcessingError(
        f"{field} line {line}: {what[:500]}",
        failure=Failure.POISON,
        stage=Stage.TEMPLATE,
        reason="TemplateFailed",
    )


def _line(template: Template, traceback: TracebackType | None) -> int:
    """The template's line that failed: generated functions carry their template's name."""
    line = 1
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line
