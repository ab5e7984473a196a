"""From the answer of any server to a `FlowResult`, or to what its failure means; pure.

`spec.flow.http` says where the answer is, with JSON pointers (RFC 6901). What went wrong is told by
the HTTP status (see `classify.by_status`); where a product says it otherwise, `_CODES` and
`_SENTENCES` know. An answer may quote the message, so nothing else of it counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from flowbinding_api.flow_http import Http, Preset
from flowbinding_api.reasons import Reason
from flowbinding_worker import jsons
from flowbinding_worker.flows.classify import (
    Answer,
    by_status,
    misconfigured,
    one_line,
    redirect_hint,
    refused,
    run_failed,
)
from flowbinding_worker.ports import (
    Failure,
    FlowResult,
    ProcessingError,
    Stage,
    Tokens,
)

_MISSING = object()
_INDEX = re.compile(r"0|-?[1-9][0-9]*")

_HINTS = {
    Reason.FLOW_UNAUTHORIZED: "check spec.flow.auth and spec.flow.apiKeySecretRef",
    Reason.FLOW_NOT_FOUND: "check spec.flow.url, spec.flow.id and spec.flow.http.path",
}

_MISCONFIGURED = (Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED)
_NOT_FOUND = (Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND)
_CODES: Mapping[Preset, Mapping[str, tuple[Failure, str]]] = {
    # The request that the binding describes, not the message in it.
    Preset.OPENAI: {
        "unsupported_parameter": _MISCONFIGURED,
        "unsupported_value": _MISCONFIGURED,
        "unknown_parameter": _MISCONFIGURED,
        "model_not_found": _NOT_FOUND,
    },
    # All of these are 400.
    Preset.DIFY: {
        "app_unavailable": _MISCONFIGURED,
        "provider_not_initialize": _MISCONFIGURED,
        "model_currently_not_support": _MISCONFIGURED,
        "not_chat_app": _MISCONFIGURED,
        "not_workflow_app": _MISCONFIGURED,
        "not_completion_app": _MISCONFIGURED,
        "provider_quota_exceeded": (Failure.THROTTLE, Reason.FLOW_THROTTLED),
        "completion_request_error": (Failure.TRANSIENT, Reason.FLOW_FAILING),
    },
}
"""What a product's `code` of a failure says that its status does not."""

_SENTENCES: Mapping[Preset, tuple[re.Pattern[str], tuple[Failure, str]]] = {
    # Some versions answer 500 here.
    Preset.FLOWISE: (re.compile(r"(chat|agent)?flow \S+ not found", re.IGNORECASE), _NOT_FOUND),
    Preset.DIFY: (re.compile("not support blocking", re.IGNORECASE), _MISCONFIGURED),
}
"""The same, where a product has no code for it."""


def read(http: Http, answer: Answer, *, now: datetime) -> FlowResult:
    """The answer of a run.

    Args:
        http: Resolved, see `flowbinding_api.presets`.
        answer: With any status.
        now: The time, for a Retry-After that is a date.

    Raises:
        ProcessingError: Classified.
    """
    document = _parsed(http, answer)
    if not 200 <= answer.status < 300:
        raise _failure(http, answer, document, now)
    if document is _MISSING:
        return FlowResult(_text(http, answer))
    _check_status(http, answer, document)
    value = resolve(document, http.text or "")
    if value is _MISSING or value is None:
        shape = _shape(document)
        raise ProcessingError(
            f"spec.flow.http.text: nothing at {http.text or 'the top'} of the answer, {shape}",
            failure=Failure.POISON,
            stage=Stage.CALL,
            reason="NoAnswer",
            status=answer.status,
            response=answer.body,
            ran=True,
        )
    return FlowResult(value, tokens=_tokens(document))


def resolve(document: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to; beyond the RFC, -1 is the last item of a list.

    Returns:
        The value, or an object that is no JSON when there is none.
    """
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(name, _MISSING)
        elif isinstance(document, list) and _INDEX.fullmatch(name):
            index = int(name)
            inside = -len(document) <= index < len(document)
            document = document[index] if inside else _MISSING
        else:
            return _MISSING
    return document


def _parsed(http: Http, answer: Answer) -> Any:
    """The JSON of the answer, if it is to be JSON or says it is; else `_MISSING`."""
    if not (answer.is_json or http.text or http.status is not None):
        return _MISSING
    try:
        return jsons.parse(answer.body)
    except ValueError:
        return _MISSING


def _text(http: Http, answer: Answer) -> str:
    """An answer that is no JSON: text, where no JSON is called for."""
    pointer = "text" if http.text else "status" if http.status is not None else ""
    if answer.is_json:
        raise ProcessingError(
            f"the server answered {answer.status} with broken JSON",
            failure=Failure.POISON,
            stage=Stage.CALL,
            reason="AnswerInvalid",
            status=answer.status,
            response=answer.body,
            ran=True,
        )
    if pointer:
        kind = answer.content_type or "no content type"
        raise misconfigured(
            f"spec.flow.http.{pointer} needs JSON, but the server answered {answer.status} with"
            f" {kind}, {len(answer.body)} characters; check spec.flow.url and spec.flow.http.path"
        )
    return answer.body


def _check_status(http: Http, answer: Answer, document: Any) -> None:
    failure = resolve(document, http.error) if http.error is not None else _MISSING
    if http.status is None:
        if failure is not _MISSING and failure not in (None, False, "", {}, []):
            raise run_failed(_said(failure), status=answer.status, response=answer.body)
        return
    status = resolve(document, http.status)
    shown = "nothing" if status is _MISSING else _as_text(status)
    if status is not _MISSING and shown in (http.success or ()):
        return
    said = _said(failure) or f"{http.status} is {shown[:100]}"
    raise run_failed(f"the run failed: {said}", status=answer.status, response=answer.body)


def _failure(http: Http, answer: Answer, document: Any, now: datetime) -> ProcessingError:
    said, code = "", ""
    if document is _MISSING and answer.content_type == "text/plain":
        said = one_line(answer.body)[:300]
    else:
        if document is _MISSING:
            with suppress(ValueError):
                document = jsons.parse(answer.body)
        told = resolve(document, http.error) if http.error is not None else _MISSING
        said, code = _said(told) or _said(document), _code(document)
    failure, reason = _meaning(http, answer, said, code)
    hint = _hint(answer, reason) if failure is Failure.CONFIGURATION else ""
    return refused(answer, "the server", said, (failure, reason, hint), now=now)


def _code(document: Any) -> str:
    """The `code` of a failure, beside its sentence or within `error`."""
    for pointer in ("/error/code", "/code"):
        if isinstance(code := resolve(document, pointer), str):
            return code
    return ""


def _meaning(http: Http, answer: Answer, said: str, code: str) -> tuple[Failure, str]:
    if http.preset is not None:
        if (meaning := _CODES.get(http.preset, {}).get(code)) is not None:
            return meaning
        words, meaning = _SENTENCES.get(http.preset, (None, None))
        if words is not None and meaning is not None and words.search(said):
            return meaning
    if answer.retry_after and answer.status not in (401, 403, 404):
        return Failure.THROTTLE, Reason.FLOW_THROTTLED
    return by_status(answer.status, said)


def _hint(answer: Answer, reason: str) -> str:
    if 300 <= answer.status < 400:
        return redirect_hint(answer)
    known = {str(key): hint for key, hint in _HINTS.items()}
    return known.get(reason, "check spec.flow.http")


def _said(value: Any) -> str:
    """The sentence in a failure: text, or the first of the usual places in an object."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        for name in ("error", "message", "detail", "msg", "description"):
            # `error` is mostly an object; where it is a class or a code, `message` says more.
            inner = value.get(name)
            more = name == "error" and isinstance(inner, str) and _said(value.get("message"))
            if inner:
                return one_line(f"{_said(inner)}: {more}") if more else _said(inner)
    if isinstance(value, list):
        return one_line("; ".join(filter(None, map(_said, value[:5]))))
    return "" if value is _MISSING or value in (None, False, {}) else one_line(_as_text(value))


def _as_text(value: Any) -> str:
    """How a JSON value is written in `success`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shape(document: Any) -> str:
    """What an answer looks like, without its contents."""
    if isinstance(document, Mapping):
        names = ", ".join(sorted(map(str, document))[:20])
        return f"an object with {names[:300]}" if names else "an empty object"
    if isinstance(document, list):
        return f"a list of {len(document)}"
    return f"a value of type {type(document).__name__}"


def _tokens(document: Any) -> Tokens | None:
    """What the run has used, in the words of OpenAI's API, which others have taken over."""
    for pointer in ("/usage", "/metadata/usage"):
        usage = resolve(document, pointer)
        if isinstance(usage, Mapping):
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            known = [count for count in counts if type(count) is int and count >= 0]
            if known == counts:
                return Tokens(*known)
    return None
