"""Why Kafka could not be reached: aiokafka 0.14 logs a refused login and reports no connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import errors
from aiokafka.conn import collect_hosts, create_conn

from flowbinding_api.reasons import Reason
from flowbinding_worker.kafka.port import KafkaUnavailableError

TIMEOUT_MS = 5000

_REFUSED = (
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.ClusterAuthorizationFailedError,
)


async def refused_login(options: Mapping[str, Any]) -> KafkaUnavailableError | None:
    """Try to log in once more, by itself.

    Args:
        options: aiokafka's client options, see `flowbinding_api.kafka_options`.

    Returns:
        What the first broker says that refuses it; None when none does.
    """
    if "sasl_mechanism" not in options:
        return None
    login = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await create_conn(host, port, request_timeout_ms=TIMEOUT_MS, **login)
        except _REFUSED as error:
            return KafkaUnavailableError(
                f"Kafka at {host}:{port} refused the login: {error}",
                reason=Reason.KAFKA_UNAUTHORIZED,
            )
        except (errors.KafkaError, OSError, TimeoutError):
            continue
        connection.close()
        return None
    return None
