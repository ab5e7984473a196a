"""Secrets that were read are taken out of whatever is said."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_worker.redaction import MIN_LENGTH, SHOWN, Redactor

secrets = st.text(st.characters(codec="utf-8"), min_size=MIN_LENGTH, max_size=40)


@given(secrets, st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_no_secret_is_left_in_text_or_json(
    secret: str, before: str, after: str, ascii_only: bool
) -> None:
    redact = Redactor()
    redact.learn(secret)
    text = before + secret + after
    assert secret not in redact(text).replace(SHOWN, "\0")
    line = redact(json.dumps({"event": text}, ensure_ascii=ascii_only))
    assert json.dumps(secret, ensure_ascii=ascii_only)[1:-1] not in line.replace(SHOWN, "\0")


@pytest.mark.parametrize("escaped", [r"c2Vj\/cmV0+Pz8=", r"c2Vj/cmV0\u002BPz8="])
def test_what_other_servers_escape_in_their_json(escaped: str) -> None:
    redact = Redactor()
    redact.learn(json.loads(f'"{escaped}"'))
    assert redact(f'{{"you sent": "Basic {escaped}"}}') == f'{{"you sent": "Basic {SHOWN}"}}'


def test_a_secret_that_holds_another_is_taken_out_whole() -> None:
    redact = Redactor()
    redact.learn("password")
    redact.learn("password-of-the-boss")
    assert redact("it is password-of-the-boss") == f"it is {SHOWN}"


def test_the_password_of_a_url_in_each_form() -> None:
    redact = Redactor()
    redact.learn_url("https://me:s%40fe-word@example.com/x")
    basic = b64encode(b"me:s@fe-word").decode()
    assert redact(f"s@fe-word s%40fe-word Basic {basic} me") == f"{SHOWN} {SHOWN} Basic {SHOWN} me"


@pytest.mark.parametrize("url", ["", "http://langflow:7860", "http://me@langflow:7860"])
def test_other_urls_teach_nothing(url: str) -> None:
    redact = Redactor()
    redact.learn_url(url)
    assert redact("http://me@langflow:7860 is fine") == "http://me@langflow:7860 is fine"


def test_what_is_too_short_for_a_secret_tears_no_holes() -> None:
    redact = Redactor()
    redact.learn("")
    redact.learn("a")
    assert redact("a banana") == "a banana"


def test_a_url_that_is_none_has_nothing_to_learn() -> None:
    redactor = Redactor()
    redactor.learn_url("http://user:password@[::1")
    assert redactor("password") == "password"
