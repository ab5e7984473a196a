"""What HTTP answers mean, and what a user reads about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowbinding_worker.flows.classify import (
    Answer,
    http_failure,
    retry_after_seconds,
    run_failed,
    timed_out,
    unreachable,
)
from flowbinding_worker.ports import Failure, ProcessingError

SAMPLES = Path(__file__).parents[1] / "data" / "langflow"
NOW = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)
JSON = "application/json"


def recorded(name: str) -> ProcessingError:
    sample = json.loads((SAMPLES / f"{name}.json").read_text())
    return http_failure(Answer(sample["status"], JSON, json.dumps(sample["response"])), now=NOW)


def failure(status: int, body: str = "", content_type: str = JSON, **more: str) -> ProcessingError:
    return http_failure(Answer(status, content_type, body, **more), now=NOW)


def inner(message: str) -> str:
    """A body as Langflow writes it when a component raises: `detail` is JSON in a string."""
    return json.dumps({"detail": json.dumps({"message": message, "traceback": None})})


@pytest.mark.parametrize(
    ("name", "kind", "reason", "message"),
    [
        (
            "err-unknown-uuid",
            Failure.CONFIGURATION,
            "FlowNotFound",
            "Langflow answered 404: Flow identifier 00000000-0000-4000-8000-000000000000 not"
            " found; check spec.flow.id",
        ),
        (
            "err-unknown-name",
            Failure.CONFIGURATION,
            "FlowNotFound",
            "Langflow answered 404: Flow identifier no-such-flow not found; check spec.flow.id",
        ),
        (
            "err-wrong-key",
            Failure.CONFIGURATION,
            "FlowUnauthorized",
            "Langflow answered 403: Invalid or missing API key; check spec.flow.apiKeySecretRef",
        ),
        (
            "err-missing-key",
            Failure.CONFIGURATION,
            "FlowUnauthorized",
            "Langflow answered 403: An API key must be passed as query or header;"
            " check spec.flow.apiKeySecretRef",
        ),
        (
            "auth-bearer-apikey",
            Failure.CONFIGURATION,
            "FlowUnauthorized",
            "Langflow answered 403: An API key must be passed as query or header;"
            " check spec.flow.apiKeySecretRef",
        ),
        (
            "err-invalid-json",
            Failure.POISON,
            "RequestRefused",
            "Langflow answered 422: body.20: JSON decode error",
        ),
        (
            "err-body-list",
            Failure.POISON,
            "RequestRefused",
            "Langflow answered 422: body.input_request: Field required;"
            " body.context: Field required",
        ),
        (
            "run-prompt-tweak-code",
            Failure.CONFIGURATION,
            "FlowMisconfigured",
            "Langflow answered 422: The field is protected and keeps the value set by the flow"
            " author. (code); check spec.flow.tweaks",
        ),
        (
            "run-echo-tweak-input-clash",
            Failure.CONFIGURATION,
            "FlowMisconfigured",
            "Langflow answered 400: If you pass an input_value to the chat input, you cannot pass"
            " a tweak with the same name.; check spec.flow.tweaks",
        ),
        (
            "err-get",
            Failure.CONFIGURATION,
            "FlowMisconfigured",
            "Langflow answered 405: Method Not Allowed; check spec.flow.url",
        ),
        (
            "run-raises",
            Failure.TRANSIENT,
            "FlowFailing",
            "Langflow answered 500: Error running graph: Error building Component Boom:"
            " boom on purpose: hi",
        ),
    ],
)
def test_recorded_errors(name: str, kind: Failure, reason: str, message: str) -> None:
    error = recorded(name)
    assert (error.failure, error.reason, str(error)) == (kind, reason, message)
    assert error.status is not None
    assert error.response


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (301, Failure.CONFIGURATION, "FlowMisconfigured"),
        (400, Failure.POISON, "RequestRefused"),
        (401, Failure.CONFIGURATION, "FlowUnauthorized"),
        (402, Failure.CONFIGURATION, "FlowMisconfigured"),
        (403, Failure.CONFIGURATION, "FlowUnauthorized"),
        (404, Failure.CONFIGURATION, "FlowNotFound"),
        (405, Failure.CONFIGURATION, "FlowMisconfigured"),
        (408, Failure.TRANSIENT, "FlowFailing"),
        (409, Failure.TRANSIENT, "FlowFailing"),
        (413, Failure.POISON, "RequestRefused"),
        (415, Failure.POISON, "RequestRefused"),
        (422, Failure.POISON, "RequestRefused"),
        (425, Failure.TRANSIENT, "FlowFailing"),
        (429, Failure.THROTTLE, "FlowThrottled"),
        (500, Failure.TRANSIENT, "FlowFailing"),
        (501, Failure.TRANSIENT, "FlowFailing"),
        (502, Failure.TRANSIENT, "FlowUnreachable"),
        (503, Failure.THROTTLE, "FlowThrottled"),
        (504, Failure.TRANSIENT, "FlowUnreachable"),
        (522, Failure.TRANSIENT, "FlowUnreachable"),
        (524, Failure.TRANSIENT, "FlowUnreachable"),
        (529, Failure.THROTTLE, "FlowThrottled"),
    ],
)
def test_statuses(status: int, kind: Failure, reason: str) -> None:
    error = failure(status, '{"detail": null}')
    assert (error.failure, error.reason, error.status) == (kind, reason, status)


@pytest.mark.parametrize(
    "message",
    [
        "Error code: 429 - {'error': {'message': 'You exceeded your current quota'}}",
        "Error building Component OpenAI: \n\nRate limit reached for gpt-4o",
        "litellm.RateLimitError: slow down",
        "HTTP 429",
        'client error: {"status_code": 429}',
        "429 Too Many Requests",
        "Error code: 529 - overloaded_error",
        "The model is currently overloaded",
        "429 RESOURCE_EXHAUSTED",
        "insufficient_quota",
        "quota has been exceeded",
    ],
)
def test_a_providers_limit_inside_a_500_is_a_throttle(message: str) -> None:
    error = failure(500, inner(f"Error running graph: {message}"))
    assert (error.failure, error.reason) == (Failure.THROTTLE, "FlowThrottled")


@pytest.mark.parametrize(
    "message",
    [
        "boom on purpose: amount 429 is not allowed",
        "unknown applicant: Quota Holdings Ltd",
        "no such file: report-429.pdf",
        "list index out of range",
    ],
)
def test_a_failure_that_quotes_its_message_is_no_throttle(message: str) -> None:
    assert failure(500, inner(message)).failure is Failure.TRANSIENT
    assert run_failed(message).failure is Failure.TRANSIENT


def test_a_database_that_is_locked_is_tried_again_and_shown() -> None:
    # Langflow with SQLite, at more runs than it takes.
    error = failure(500, inner("(sqlite3.OperationalError) database is locked"))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowFailing")
    assert str(error) == "Langflow answered 500: (sqlite3.OperationalError) database is locked"


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ('{"detail": "Flow identifier x not found"}', Failure.CONFIGURATION, "FlowNotFound"),
        ('{"detail": "Not Found"}', Failure.CONFIGURATION, "FlowNotFound"),
        ("{}", Failure.CONFIGURATION, "FlowNotFound"),
        (inner("customer 7 not found"), Failure.TRANSIENT, "FlowFailing"),
        (inner("quota exceeded, model not found"), Failure.THROTTLE, "FlowThrottled"),
    ],
)
def test_not_every_404_is_a_missing_flow(body: str, kind: Failure, reason: str) -> None:
    error = failure(404, body)
    assert (error.failure, error.reason) == (kind, reason)


def test_a_404_of_a_proxy() -> None:
    error = failure(404, "<html>nginx</html>", "text/html")
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowNotFound")
    assert str(error) == "Langflow answered 404; check spec.flow.url"


def test_a_web_page_instead_of_an_answer() -> None:
    error = failure(200, "<html>", "text/html")
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert str(error) == (
        "Langflow answered 200; expected JSON, got text/html: spec.flow.url must be Langflow's"
        " API, not its UI"
    )


def test_a_redirect_says_where_to_but_not_with_what() -> None:
    error = failure(
        307, "", "text/html", location="https://user:pass@sso.example/login?token=secret#x"
    )
    assert error.failure is Failure.CONFIGURATION
    assert "https://sso.example/login:" in str(error)
    assert "secret" not in str(error)
    assert "pass" not in str(error)


def test_a_gateways_page_is_not_quoted_but_kept() -> None:
    error = failure(502, "<html>" + "x" * 5000, "text/html")
    assert str(error) == "Langflow answered 502"
    assert len(error.response) == 2048


def test_plain_text_is_quoted() -> None:
    assert str(failure(502, "no healthy\nupstream", "text/plain")) == (
        "Langflow answered 502: no healthy upstream"
    )


@pytest.mark.parametrize("body", ["", "{", "null", '{"detail": 5}', "[" * 100_000])
def test_bodies_that_say_nothing(body: str) -> None:
    assert str(failure(500, body)) == "Langflow answered 500"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 -0000", 30.0),
        ("Saturday, 21-Nov-26 10:00:30 GMT", 30.0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1e9", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert retry_after_seconds(header, now=NOW) == seconds


@pytest.mark.parametrize("status", [200, 403, 429, 500, 503])
def test_any_answer_with_retry_after_is_a_throttle(status: int) -> None:
    error = failure(status, "{}", retry_after="7")
    assert (error.failure, error.retry_after_seconds) == (Failure.THROTTLE, 7.0)


def test_a_timeout_says_that_the_outcome_is_unknown() -> None:
    error = timed_out(60.0)
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")
    assert "(60 s); outcome unknown" in str(error)
    assert error.outcome_unknown


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 522, 524])
def test_only_proxies_that_gave_up_waiting_leave_the_outcome_unknown(status: int) -> None:
    assert failure(status).outcome_unknown == (status in (504, 524))
    assert not run_failed("boom").outcome_unknown


def test_a_connection_that_breaks_leaves_the_outcome_unknown_and_none_does_not() -> None:
    assert not unreachable("refused").outcome_unknown
    assert unreachable("lost", outcome_unknown=True).outcome_unknown


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        ("Please try again in 20s.", 20.0),
        ("Please try again in 6.25s. Visit https://", 6.25),
        ("Please try again in 1m30s", 90.0),
        ("try again in 2h5m", 7500.0),
        ("try again in 850ms", 0.85),
        ("Please retry after 7 seconds", 7.0),
        ("Retrying in 3 milliseconds", 0.003),
        ("try again in a while", None),
        ("try again in 5 minutes", 300.0),
        ("try again in 1 hour 5 min", 3900.0),
        ("TRY AGAIN IN 850MS", 0.85),
        ("try again later", None),
    ],
)
def test_a_providers_hint_when_to_come_back(hint: str, seconds: float | None) -> None:
    message = f"Rate limit reached for gpt-4o. {hint}"
    assert failure(500, inner(message)).retry_after_seconds == pytest.approx(seconds)
    assert run_failed(message).retry_after_seconds == pytest.approx(seconds)
    assert failure(500, inner(message), retry_after="3").retry_after_seconds == 3.0
    assert failure(500, inner(f"The form says: {hint}")).retry_after_seconds is None


def told(status: int, code: str, **fields: object) -> ProcessingError:
    detail = {"error": "x", "code": code, "message": "It says why.", **fields}
    return failure(status, json.dumps({"detail": detail}))


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "DEVELOPER_API_DISABLED", "set LANGFLOW_DEVELOPER_API_ENABLED=true there"),
        (422, "LFX_SERVE_UNSUPPORTED_FIELDS", "remove spec.flow.tweaks"),
        (422, "TWEAKS_REFUSED", "check spec.flow.tweaks"),
        (422, "UNKNOWN_OUTPUT_IDS", "set spec.flow.outputComponent"),
    ],
)
def test_codes_that_are_about_the_binding(status: int, code: str, hint: str) -> None:
    error = told(status, code)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert str(error).startswith(f"Langflow answered {status}: It says why.; {hint}")


def test_the_servers_own_limit_stops_a_run_in_the_middle() -> None:
    error = told(408, "EXECUTION_TIMEOUT", timeout_seconds=300)
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")
    assert error.outcome_unknown
    assert error.timed_out
    assert error.ran
    assert "the server's own limit for a run" in str(error)


def test_codes_that_say_no_more_than_their_status() -> None:
    assert told(503, "DATABASE_ERROR").failure is Failure.THROTTLE
    assert told(500, "INTERNAL_SERVER_ERROR").failure is Failure.TRANSIENT
    assert told(400, "INVALID_FLOW_DATA").failure is Failure.POISON
    assert told(403, "FLOW_EXECUTE_FORBIDDEN").reason == "FlowUnauthorized"
    assert failure(403, '{"detail": {"code": ["x"]}}').reason == "FlowUnauthorized"


def test_who_answered_is_named() -> None:
    answer = Answer(500, JSON, '{"result": "Flow execution failed: boom", "success": false}')
    error = http_failure(answer, now=NOW, server="lfx serve")
    assert str(error) == "lfx serve answered 500: boom"
    assert (error.failure, error.ran) == (Failure.TRANSIENT, True)
