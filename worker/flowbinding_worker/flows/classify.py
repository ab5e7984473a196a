"""What a failed run means: HTTP answers, transport errors and messages of components; pure.

    status                                      failure        reason
    429, 503, 529, any with Retry-After         THROTTLE       FlowThrottled
    500 that passes on a provider's rate limit  THROTTLE       FlowThrottled
    500, other 5xx, 404 from inside a component TRANSIENT      FlowFailing
    408, 409, 425                               TRANSIENT      FlowFailing
    502, 504, 520 to 524                        TRANSIENT      FlowUnreachable
    400, 413, 414, 415, 422, 431                POISON         RequestRefused
    400, 422 because of what the binding asks   CONFIGURATION  FlowMisconfigured
    401, 403                                    CONFIGURATION  FlowUnauthorized
    404                                         CONFIGURATION  FlowNotFound
    3xx, 405, other 4xx, not JSON               CONFIGURATION  FlowMisconfigured

504 and 524 are proxies that have waited long enough: the run may still go on, so that its outcome
is unknown. 520 to 524 and 529 are no standard ones: Cloudflare's and Anthropic's.

Langflow answers 500 both for a flow that can never work for this message and for a provider's
hiccup, so the engine retries a few times before it gives up. Its own words come in several shapes:
`detail` as text, as JSON in text, as an object with a `code`, or as a list of fields; from
`lfx serve` as `result` with `success: false`. A `code` says more than its status.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowbinding_api.reasons import Reason
from flowbinding_worker import jsons
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
NO_RESPONSE = "No response generated"
"""What `lfx serve` says of a run that ended well without a Chat Output."""

_CODES = {
    "DEVELOPER_API_DISABLED": "set LANGFLOW_DEVELOPER_API_ENABLED=true there, or spec.flow.api Run",
    "LFX_SERVE_UNSUPPORTED_FIELDS": "remove spec.flow.tweaks, or call a Langflow server",
    "TWEAKS_REFUSED": "check spec.flow.tweaks",
    "UNKNOWN_OUTPUT_IDS": "set spec.flow.outputComponent",
}
"""Codes of answers that every message of the binding would get, and what to do."""

_SPAN = re.compile(r"([\d.]+) ?(ms|milli|h|m|s)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "h": 3600.0, "m": 60.0, "s": 1.0}


class Answer(NamedTuple):
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
        one_line(message),
        failure=Failure.THROTTLE if limited else Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=Reason.FLOW_THROTTLED if limited else Reason.FLOW_FAILING,
        status=status,
        response=response,
        retry_after_seconds=hinted_seconds(message) if limited else None,
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


def http_failure(answer: Answer, *, now: datetime, server: str = "Langflow") -> ProcessingError:
    """What an HTTP answer means that is no success.

    Args:
        answer: An answer with any status but 2xx, or a 2xx that is not JSON.
        now: The time, for a Retry-After that is a date.
        server: Who answered, for messages.
    """
    detail = _detail(answer)
    inner = _inner_message(detail) or _plain_body(answer)
    return refused(answer, server, inner, _meaning(answer, detail, inner), now=now)


def refused(
    answer: Answer, server: str, said: str, meaning: tuple[Failure, str, str], *, now: datetime
) -> ProcessingError:
    """The failure that an HTTP answer is.

    Args:
        answer: An answer that is no success.
        server: Who answered, for messages.
        said: What it says, if anything.
        meaning: Failure, reason and a hint for the user, if there is one.
        now: The time, for a Retry-After that is a date.
    """
    failure, reason, hint = meaning
    message = f"{server} answered {answer.status}{f': {said}' if said else ''}"
    asked = retry_after_seconds(answer.retry_after, now=now)
    if asked is None and failure is Failure.THROTTLE:
        asked = hinted_seconds(said)
    # A 404 that is transient comes from inside a component.
    inside = answer.status == 404 and failure is not Failure.CONFIGURATION
    stopped = reason == Reason.FLOW_TIMEOUT
    return ProcessingError(
        f"{message}; {hint}" if hint else message,
        failure=failure,
        stage=Stage.CALL,
        reason=reason,
        status=answer.status,
        response=answer.body,
        retry_after_seconds=asked,
        ran=answer.status == 500 or inside or stopped,
        outcome_unknown=answer.status in GATEWAY_TIMEOUTS or stopped,
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


def hinted_seconds(message: str) -> float | None:
    """When to come back, as the sentence of a provider's limit says it: `try again in 6.5s`."""
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    spans = _SPAN.findall(found[1])
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in spans)


def _meaning(answer: Answer, detail: Any, inner: str) -> tuple[Failure, str, str]:
    """Failure, reason and a hint for the user."""
    status = answer.status
    if (told := _told_by_code(detail)) is not None:
        return told
    if status in _THROTTLE or answer.retry_after:
        return Failure.THROTTLE, Reason.FLOW_THROTTLED, ""
    if status in (401, 403):
        return Failure.CONFIGURATION, Reason.FLOW_UNAUTHORIZED, "check spec.flow.apiKeySecretRef"
    if status == 404:
        return _not_found(detail, inner)
    if status in (400, 422) and (hint := _binding_hint(detail, inner)):
        return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED, hint
    if status == 500 and inner == NO_RESPONSE:
        return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED, "give the flow a Chat Output"
    failure, reason = by_status(status, inner)
    return failure, reason, _address_hint(answer) if failure is Failure.CONFIGURATION else ""


def by_status(status: int, message: str) -> tuple[Failure, str]:
    """Failure and reason of a status that is no success, from whatever server it comes.

    Args:
        status: The HTTP status.
        message: What the server says.
    """
    if status in _THROTTLE:
        return Failure.THROTTLE, Reason.FLOW_THROTTLED
    if status in (401, 403):
        return Failure.CONFIGURATION, Reason.FLOW_UNAUTHORIZED
    if status == 404:
        return Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND
    if status in _POISON:
        return Failure.POISON, "RequestRefused"
    if status in _GATEWAY:
        return Failure.TRANSIENT, Reason.FLOW_UNREACHABLE
    if status >= 500 or status in _TRANSIENT:
        limited = status >= 500 and _LIMITED.search(message) is not None
        if limited:
            return Failure.THROTTLE, Reason.FLOW_THROTTLED
        return Failure.TRANSIENT, Reason.FLOW_FAILING
    return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED


def _not_found(detail: Any, inner: str) -> tuple[Failure, str, str]:
    """Langflow turns any `not found` that a component raises into a 404 as well."""
    named = isinstance(detail, Mapping) and "flow_id" in detail
    if named or "Flow identifier" in inner:
        return Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND, "check spec.flow.id"
    if not isinstance(detail, str) or detail.strip().lower() == "not found":
        return Failure.CONFIGURATION, Reason.FLOW_NOT_FOUND, "check spec.flow.url"
    if _LIMITED.search(inner):
        return Failure.THROTTLE, Reason.FLOW_THROTTLED, ""
    return Failure.TRANSIENT, Reason.FLOW_FAILING, ""


def _told_by_code(detail: Any) -> tuple[Failure, str, str] | None:
    """What a `code` in an answer's `detail` means, where it means more than the status."""
    code = detail.get("code") if isinstance(detail, Mapping) else None
    if code == "EXECUTION_TIMEOUT":
        # The server's own limit has stopped the run in the middle.
        return Failure.TRANSIENT, Reason.FLOW_TIMEOUT, "the server's own limit for a run"
    hint = _CODES.get(code) if isinstance(code, str) else None
    if hint is None:
        return None
    available = detail.get("available")
    if isinstance(available, list) and available:
        hint = f"{hint} to one of {', '.join(map(str, available))}"
    return Failure.CONFIGURATION, Reason.FLOW_MISCONFIGURED, hint


def _binding_hint(detail: Any, inner: str) -> str:
    """Where the binding is wrong, and not the message: the next message would fare no better."""
    if "cannot pass a tweak" in inner:
        return "check spec.flow.tweaks"
    problems = detail if isinstance(detail, list) else ()
    kinds = [problem.get("type") for problem in problems if isinstance(problem, Mapping)]
    if "must be a UUID" in inner:
        return "spec.flow.id must be a UUID here"
    if "extra_forbidden" in kinds:
        return "the server is too old for spec.flow.api; use Run"
    return ""


def _address_hint(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return redirect_hint(answer)
    if not answer.is_json:
        kind = answer.content_type or "no content type"
        return f"expected JSON, got {kind}: spec.flow.url must be Langflow's API, not its UI"
    return "check spec.flow.url"


def redirect_hint(answer: Answer, field: str = "spec.flow.url") -> str:
    """What to do about a redirect.

    Args:
        answer: The redirect.
        field: Path of the field that names the server.
    """
    where = _without_query(answer.location) or "nowhere"
    return f"it redirects to {where}: set {field} to the server itself"


def _detail(answer: Answer) -> Any:
    """`detail` of the body, from a JSON string when it is one; None without one."""
    if not answer.is_json:
        return None
    body = _parsed(answer.body)
    if not isinstance(body, Mapping):
        return None
    if body.get("success") is False:
        return str(body.get("result") or "").removeprefix("Flow execution failed: ")
    return body.get("detail")


def _inner_message(detail: Any) -> str:
    """The sentence within Langflow's `detail`: text, JSON in text, an object, or a list of them."""
    if isinstance(detail, str):
        inner = _parsed(detail) if detail.lstrip().startswith("{") else None
        return _inner_message(inner) if isinstance(inner, Mapping) else one_line(detail)
    if isinstance(detail, Mapping):
        message = str(detail.get("message") or detail.get("msg") or detail.get("error") or "")
        fields = detail.get("fields")
        named = f" ({', '.join(map(str, fields))})" if isinstance(fields, list) and fields else ""
        place = detail.get("loc")
        path = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        return one_line(path + message + named)
    if isinstance(detail, list):
        return one_line("; ".join(filter(None, map(_inner_message, detail))))
    return ""


def _plain_body(answer: Answer) -> str:
    """The start of a body that is text for people; pages and unknown JSON say nothing in a line."""
    return one_line(answer.body)[:300] if answer.content_type == "text/plain" else ""


def _parsed(text: str) -> Any:
    try:
        return jsons.parse(text)
    except ValueError:
        return None


def _without_query(location: str) -> str:
    # A login page's address may carry a token.
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", location, maxsplit=1)[0])[:200]


def one_line(text: str) -> str:
    """`text` without secrets, line breaks and what is too long for a condition."""
    # Before it is cut: half a secret would not be known again.
    return " ".join(redact(text).split())[:1000]
