"""Why no broker lets a command in, in words."""

from __future__ import annotations

import re
import ssl
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from flowbinding_cli import login

VERIFY = ssl.SSLCertVerificationError(1, "certificate verify failed")
VERIFY.verify_message = "self-signed certificate"


class Connection:
    """A connection that was let in."""

    def close(self) -> None:
        """Nothing to do."""


def brokers(monkeypatch: pytest.MonkeyPatch, **answers: Exception | None) -> dict[str, Any]:
    """Options for brokers that answer so, by host."""

    async def connect(host: str, port: int, **_: Any) -> Connection:
        if (error := answers[host]) is not None:
            raise error
        return Connection()

    monkeypatch.setattr(login, "create_conn", connect)
    return {"bootstrap_servers": ",".join(f"{host}:9" for host in answers)}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SaslAuthenticationFailed("wrong password"), "refuses the login: .*wrong password"),
        (VERIFY, r"fails in TLS: self-signed certificate \(see spec\.kafka\.tls\)"),
        (ConnectionRefusedError(111, "Connection refused"), "does not answer: Connection refused$"),
        (TimeoutError(), "does not answer: TimeoutError"),
        (KafkaConnectionError("closed"), r"does not answer: .*closed; does it want TLS\?"),
    ],
)
async def test_what_a_broker_says(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await login.refusal(brokers(monkeypatch, one=error))
    assert re.search(f"^Kafka at one:9 {says}", told), told


async def test_the_word_that_tells_most_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    away = ConnectionRefusedError(111, "Connection refused")
    refused = SaslAuthenticationFailed("wrong password")
    options = brokers(monkeypatch, one=away, two=refused, three=VERIFY)
    assert "Kafka at two:9 refuses" in await login.refusal(options)


async def test_one_that_lets_us_in_leaves_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    away = ConnectionRefusedError(111, "Connection refused")
    assert await login.refusal(brokers(monkeypatch, one=away, two=None)) == ""
