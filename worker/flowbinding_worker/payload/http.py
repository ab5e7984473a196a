"""The request of the HTTP backend, rendered for one message."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2.ext import Extension
from jinja2.lexer import (
    TOKEN_LPAREN,
    TOKEN_NAME,
    TOKEN_PIPE,
    TOKEN_RPAREN,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    Token,
    TokenStream,
)
from markupsafe import Markup

from flowbinding_api.flow import Flow
from flowbinding_api.presets import resolved
from flowbinding_api.templates import Environment, environment
from flowbinding_worker.payload.render import (
    TextTemplate,
    Variables,
    compile_tweaks,
    render_tweaks,
)
from flowbinding_worker.ports import Failure, HttpParts, ProcessingError, Stage

_FIELD = "spec.flow.http"
_SEGMENT = "as_path_segment"


class HttpTemplates:
    """The templates of `spec.flow.http`, or of its preset, compiled once.

    Args:
        env: The sandbox.
        flow: A flow with backend HTTP.
    """

    def __init__(self, env: Environment, flow: Flow) -> None:
        http = resolved(flow.http, flow.url or "")
        self._flow_id = flow.id
        self._path = TextTemplate(_quoting(environment()), f"{_FIELD}.path", http.path or "")
        self._headers = {
            name: TextTemplate(env, f"{_FIELD}.headers.{name}", text)
            for name, text in http.headers.items()
        }
        self._body = compile_tweaks(env, f"{_FIELD}.body", http.body)

    def render(self, variables: Variables, text: str, session: str) -> HttpParts:
        """What to send for one message.

        Args:
            variables: The message's.
            text: The rendered input.
            session: The rendered session.

        Raises:
            ProcessingError: POISON with reason TemplateFailed.
        """
        # An id that is absent is undefined, as any other name that does not exist.
        flow = {} if self._flow_id is None else {"flow": self._flow_id}
        variables = {**variables, "input": text, "session": session, **flow}
        return HttpParts(
            path=_checked_path(self._path.render(variables)),
            headers=_checked_headers(self._headers, variables),
            body=render_tweaks(self._body, variables),
        )


class _Quoting(Extension):
    """Has every expression of a template pass through the filter `_SEGMENT`."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """`{{ a ~ b }}` becomes `{{ (a ~ b) | segment }}`."""
        for token in stream:
            if token.type == TOKEN_VARIABLE_END:
                yield Token(token.lineno, TOKEN_RPAREN, ")")
                yield Token(token.lineno, TOKEN_PIPE, "|")
                yield Token(token.lineno, TOKEN_NAME, _SEGMENT)
            yield token
            if token.type == TOKEN_VARIABLE_BEGIN:
                yield Token(token.lineno, TOKEN_LPAREN, "(")


def _quoting(env: Environment) -> Environment:
    env.add_extension(_Quoting)
    env.filters = {**env.filters, _SEGMENT: _quoted}
    return env


def _quoted(value: Any) -> Any:
    """How an expression's value appears in a path: percent-encoded, unless it is marked as safe."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool | Mapping | list | tuple):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    text = "" if value is None else str(value)
    return urllib.parse.quote(text, safe="", errors="surrogatepass")


def _checked_path(path: str) -> str:
    # Whoever writes messages must not choose another resource by a key of `..`.
    if any(part in (".", "..") for part in path.partition("?")[0].split("/")):
        raise _failed("path", "a segment that is . or .. would lead to another resource")
    return path


def _checked_headers(templates: Mapping[str, TextTemplate], variables: Variables) -> dict[str, str]:
    headers = {}
    for name, template in templates.items():
        value = headers[name] = template.render(variables).strip()
        if not value.isascii() or not value.isprintable():
            raise _failed(f"headers.{name}", "gives characters that no header can carry")
    return headers


def _failed(field: str, problem: str) -> ProcessingError:
    return ProcessingError(
        f"{_FIELD}.{field}: {problem}",
        failure=Failure.POISON,
        stage=Stage.TEMPLATE,
        reason="TemplateFailed",
    )
