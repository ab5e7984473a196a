"""What a failed run means: HTTP answers, transport errors and messages of components; pure.

    status                                      failure        reason
    429, 503, 529, any with Retry-After         THROTTLE       FlowThrottled
    500 that passes on a provider's rate limit  THROTTLE       FlowThrottled
    500, other 5xx, 404 from inside a component TRANSIENT      FlowFailing
    408, 409, 425                               TRANSIENT      FlowFailing
    502, 504, 520 to 524                        TRANSIENT      FlowUnreachable
    400, 413, 414, 415, 422, 431                POISON         RequestRefused
    400, 422 because of tweaks                  CONFIGURATION  FlowMisconfigured
    401, 403                                    CONFIGURATION  FlowUnauthorized
    404                                         CONFIGURATION  FlowNotFound
    3xx, 405, other 4xx, not JSON               CONFIGURATION  FlowMisconfigured

504 and 524 are proxies that have waited long enough: the run may still go on, so that its outcome
is unknown. 520 to 524 and 529 are no standard ones: Cloudflare's and Anthropic's.

Langflow answers 500 both for a flow that can never work for this message and for a provider's
hiccup, so the engine retries a few times before it gives up.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flowbinding_api.reasons import Reason
from flowbinding_worker.ports import GATEWAY_TIMEOUTS, Failure, ProcessingError, Stage
from flowbinding_worker.redaction import redact

_POISON = frozenset({400, 413, 414, 415, 422, 431})
_TRANSIENT = frozenset({408, 409, 425})
_GATEWAY = frozenset({502, 504, 520, 521, 522, 523, 524})
_THROTTLE = frozenset({429, 503, 529})

# Words of providers' limits, each with its context: an error may quote the message that was
# processed, and an amount of 429 must not make that message wait for ever.
_LIMITED = re.compile(
    r"rate.?limit|too many requests|overloaded|resource.?exhausted"
    r"|(?:error code|status(?:.?code)?|http(?:/[0-9.]+)?|error)[\"']?[:=\s(]*429\b"
    r"|\b429[\s:,-]+(?:error|client|resource|you|quota|too)"
    r"|(?:exceed|exhaust|insufficient|out of|over)[^.\n]{0,40}quota"
    r"|quota[^.\n]{0,40}(?:exceed|exhaust|reached)",
    re.IGNORECASE,
)

# What OpenAI and others say, whose headers a flow server does not pass on.
_TRY_AGAIN = re.compile(
    r"(?:try again|retry(?:ing)?) (?:in|after) ((?:\d{1,6}(?:\.\d{1,6})? ?(?:h|m|s)[a-z]* ?)+)",
    re.IGNORECASE,
)
_SPAN = re.compile(r"([\d.]+) ?(ms|milli|h|m|s)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer.

    Attributes:
        status: Its status.
        content_type: Its content type without parameters, in lower case.
        body: Its body as text.
        location: Where a redirect points.
        retry_after: The header as it came.
    """

    status: int
    content_type: str
    body: str
    location: str = ""
    retry_after: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the body claims to be JSON."""
        return self.content_type == "application/json" or self.content_type.endswith("+json")


def misconfigured(message: str, reason: str = Reason.FLOW_MISCONFIGURED) -> ProcessingError:
    """A failure that every message meets until somebody repairs the binding or the flow."""
    return ProcessingError(message, failure=Failure.CONFIGURATION, stage=Stage.CALL, reason=reason)


def run_failed(message: str, *, status: int | None = None, response: str = "") -> ProcessingError:
    """A run that began and failed, known only by its message: THROTTLE or TRANSIENT."""
    limited = _LIMITED.search(message) is not None
    return ProcessingError(
        _one_line(message),
        failure=Failure.THROTTLE if limited else Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=Reason.FLOW_THROTTLED if limited else Reason.FLOW_FAILING,
        status=status,
        response=response,
        retry_after_seconds=_hinted_seconds(message) if limited else None,
        ran=True,
    )


def timed_out(seconds: float) -> ProcessingError:
    """A run without an answer in time. It may go on at the server: Langflow does not stop it.

    It counts as a run that happened: a message that takes too long whenever it is tried must leave
    in the end. A server that accepts connections and never answers looks the same, so during such
    an outage each probe costs its message an attempt; probes are `timeoutSeconds` apart at least.
    """
    return ProcessingError(
        f"no answer within spec.flow.timeoutSeconds ({seconds:g} s); outcome unknown, the run may"
        " still finish",
        failure=Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=Reason.FLOW_TIMEOUT,
        ran=True,
        outcome_unknown=True,
    )


def unreachable(message: str, *, outcome_unknown: bool = False) -> ProcessingError:
    """No connection; or one that broke, which leaves the outcome unknown if it had been used."""
    return ProcessingError(
        message,
        failure=Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=Reason.FLOW_UNREACHABLE,
        outcome_unknown=outcome_unknown,
    )


def http_failure(answer: Answer, *, now: datetime) -> ProcessingError:
    """What an HTTP answer means that is no success.

    Args:
        answer: An answer with any status but 2xx, or a 2xx that is not JSON.
        now: The time, for a Retry-After that is a date.
    """
    detail = _detail(answer)
    inner = _inner_message(detail) or _plain_body(answer)
    failure, reason, hint = _meaning(answer, detail, inner)
    message = (
        f"Langflow answered {answer.status}: {inner}"
        if inner
        else (f"Langflow answered {answer.status}")
    )
    asked = retry_after_seconds(answer.retry_after, now=now)
    if asked is None and failure is Failure.THROTTLE:
        asked = _hinted_seconds(inner)
    return ProcessingError(
        f"{message}; {hint}" if hint else message,
        failure=failure,
        stage=Stage.CALL,
        reason=reason,
        status=answer.status,
        response=answer.body,
        retry_after_seconds=asked,
        # A 404 that is transient comes from inside a component.
        ran=answer.status == 500 or (answer.status == 404 and failure is not Failure.CONFIGURATION),
        outcome_unknown=answer.status in GATEWAY_TIMEOUTS,
    )


def retry_after_seconds(header: str, *, now: datetime) -> float | None:
    """Seconds to wait according to a Retry-After header: a number, or a date; None if neither."""
    header = header.strip()
    if not header:
        return None
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]+)?", header):
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _hinted_seconds(message: str) -> float | None:
    """When to come back, as the sentence of a provider's limit says it: `try again in 6.5s`."""
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    spans = _SPAN.findall(found[1])
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in spans)


def _meaning(answer: Answer, detail: Any, inner: str) -> tuple[Failure, str, str]:
    """Failure, reason and a hint for the user."""
    status = answer.status
    if status in _THROTTLE or answer.retry_after:
        return Failure.THROTTLE, Reason.FLOW_THROTTLED, ""
    if status in (401, 403):
        return Failure.CONFIGURATION, Reason.FLOW_UNAUTHORIZED, "check spec.flow.apiKeySecretRef"
    if status == 404:
        return _not_found(detail, inner)
    if status in (400, 422) and _is_about_tweaks(detail, inner):
        return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED, "check spec.flow.tweaks"
    if status in _POISON:
        return Failure.POISON, "RequestRefused", ""
    if status in _GATEWAY:
        return Failure.TRANSIENT, Reason.FLOW_UNREACHABLE, ""
    if status >= 500 or status in _TRANSIENT:
        limited = status >= 500 and _LIMITED.search(inner) is not None
        if limited:
            return Failure.THROTTLE, Reason.FLOW_THROTTLED, ""
        return Failure.TRANSIENT, Reason.FLOW_FAILING, ""
    return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED, _address_hint(answer)


def _not_found(detail: Any, inner: str) -> tuple[Failure, str, str]:
    """Langflow turns any `not found` that a component raises into a 404 as well."""
    if "Flow identifier" in inner:
        return Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND, "check spec.flow.id"
    if not isinstance(detail, str) or detail.strip().lower() == "not found":
        return Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND, "check spec.flow.url"
    if _LIMITED.search(inner):
        return Failure.THROTTLE, Reason.FLOW_THROTTLED, ""
    return Failure.TRANSIENT, Reason.FLOW_FAILING, ""


def _is_about_tweaks(detail: Any, inner: str) -> bool:
    # The binding's tweaks, not the message, make Langflow refuse: the next message fares no better.
    if isinstance(detail, Mapping) and detail.get("code") == "TWEAKS_REFUSED":
        return True
    return "cannot pass a tweak" in inner


def _address_hint(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        where = _without_query(answer.location) or "nowhere"
        return f"it redirects to {where}: set spec.flow.url to the server itself"
    if not answer.is_json:
        kind = answer.content_type or "no content type"
        return f"expected JSON, got {kind}: spec.flow.url must be Langflow's API, not its UI"
    return "check spec.flow.url"


def _detail(answer: Answer) -> Any:
    """`detail` of the body, from a JSON string when it is one; None without one."""
    if not answer.is_json:
        return None
    body = _parsed(answer.body)
    return body.get("detail") if isinstance(body, Mapping) else None


def _inner_message(detail: Any) -> str:
    """The sentence within Langflow's `detail`: text, JSON in text, an object, or a list of them."""
    if isinstance(detail, str):
        inner = _parsed(detail) if detail.lstrip().startswith("{") else None
        return _inner_message(inner) if isinstance(inner, Mapping) else _one_line(detail)
    if isinstance(detail, Mapping):
        message = str(detail.get("message") or detail.get("msg") or detail.get("error") or "")
        fields = detail.get("fields")
        named = f" ({', '.join(map(str, fields))})" if isinstance(fields, list) and fields else ""
        place = detail.get("loc")
        path = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        return _one_line(path + message + named)
    if isinstance(detail, list):
        return _one_line("; ".join(filter(None, map(_inner_message, detail))))
    return ""


def _plain_body(answer: Answer) -> str:
    """The start of a body that is text for people; pages and unknown JSON say nothing in a line."""
    return _one_line(answer.body)[:300] if answer.content_type == "text/plain" else ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_query(location: str) -> str:
    # A login page's address may carry a token.
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", location, maxsplit=1)[0])[:200]


def _one_line(text: str) -> str:
    # Before it is cut: half a secret would not be known again.
    return " ".join(redact(text).split())[:1000]
