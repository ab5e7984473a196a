"""Why no broker lets a command in."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

TIMEOUT_MS = 5000
_REFUSED = (IllegalSaslStateError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


async def refusal(options: Mapping[str, Any]) -> str:
    """What the brokers say, asked one by one.

    Args:
        options: aiokafka's client options, see `flowbinding_api.kafka_options`.

    Returns:
        The first broker's word that tells most: a refused login, else a failure of TLS, else
        that it does not answer. Empty when one of them lets us in.
    """
    found = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        weight, text = await _asked(host, port, options)
        if not text:
            return ""
        found.append((weight, f"Kafka at {host}:{port} {text}"))
    return max(found, key=lambda item: item[0])[1]


async def _asked(host: str, port: int, options: Mapping[str, Any]) -> tuple[int, str]:
    """How much an answer tells, and the answer; an empty one when there is nothing wrong."""
    own = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    try:
        connection = await create_conn(host, port, **{**own, "request_timeout_ms": TIMEOUT_MS})
    except _REFUSED as error:
        return 2, f"refuses the login: {error}"
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        return 1, f"fails in TLS: {why} (see spec.kafka.tls)"
    except (KafkaError, OSError, TimeoutError) as error:
        return 0, f"does not answer: {_words(error, options)}"
    connection.close()
    return 0, ""


def _words(error: Exception, options: Mapping[str, Any]) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    plain = "SSL" not in str(options.get("security_protocol", ""))
    return f"{text}; does it want TLS?" if plain and isinstance(error, KafkaError) else text
