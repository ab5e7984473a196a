"""From `spec.kafka` to the keyword arguments that every aiokafka client takes.

Operator and worker reach the same clusters with the same credentials, so there is one place that
reads them. Nothing here connects.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.kafka import Kafka, Sasl, Tls
from flowbinding_api.reasons import Reason
from flowbinding_api.tls import UNUSABLE, client_context, load_certificate

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Far above any sensible topic's limit: the broker decides what is too large."""


class _Null:
    """Stands for None: aiokafka's send() refuses a record whose key and value are both null."""


NULL = _Null()


def null_serializer(value: bytes | _Null | None) -> bytes | None:
    """For aiokafka's producers: makes None of `NULL`, and leaves bytes as they are."""
    return None if isinstance(value, _Null) else value


SecretReader = Callable[[SecretKeyRef], bytes]
"""Gives the bytes of one key of a Secret, or raises `FlowBindingError`."""


def client_options(kafka: Kafka, secret: SecretReader) -> dict[str, Any]:
    """Keyword arguments for aiokafka's consumer, producer, admin client and bare client.

    Args:
        kafka: The cluster; defaults already filled in.
        secret: Called once for every Secret that is needed.

    Returns:
        `bootstrap_servers` and `security_protocol`, and what the protocol needs of `ssl_context`,
        `sasl_mechanism`, `sasl_plain_username` and `sasl_plain_password`.

    Raises:
        FlowBindingError: KafkaNotConfigured when there is no address or a certificate or a text is
            unusable; and whatever `secret` raises.
    """
    if kafka.bootstrap_servers is None:
        raise FlowBindingError(
            "spec.kafka.bootstrapServers: required", reason=Reason.KAFKA_NOT_CONFIGURED
        )
    tls = kafka.tls if kafka.tls is not None and kafka.tls.enabled else None
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": _protocol(tls, kafka.sasl),
    }
    if tls is not None:
        options["ssl_context"] = ssl_context(tls, secret)
    if kafka.sasl is not None:
        options["sasl_mechanism"] = kafka.sasl.mechanism.value
        options["sasl_plain_username"] = _text(kafka.sasl.username_secret_ref, secret)
        options["sasl_plain_password"] = _text(kafka.sasl.password_secret_ref, secret)
    return options


def ssl_context(tls: Tls, secret: SecretReader) -> ssl.SSLContext:
    """A client context that checks the broker's name and its certificate.

    Raises:
        FlowBindingError: KafkaNotConfigured when a certificate or key cannot be used.
    """
    ca, certificate, key = tls.ca_secret_ref, tls.certificate_secret_ref, tls.key_secret_ref
    context = client_context(None)
    if ca is not None:
        with _usable(ca):
            context = client_context(secret(ca))
    if certificate is not None and key is not None:
        pair = secret(certificate), secret(key)
        with _usable(certificate):
            load_certificate(context, *pair)
    return context


def _protocol(tls: Tls | None, sasl: Sasl | None) -> str:
    if sasl is None:
        return "PLAINTEXT" if tls is None else "SSL"
    return "SASL_PLAINTEXT" if tls is None else "SASL_SSL"


def _text(ref: SecretKeyRef, secret: SecretReader) -> str:
    with _usable(ref):
        # Secrets that were made from a file end with its line break.
        return secret(ref).decode().rstrip("\r\n")


@contextmanager
def _usable(ref: SecretKeyRef) -> Iterator[None]:
    try:
        yield
    except UNUSABLE as error:
        what = getattr(error, "reason", None) or type(error).__name__
        raise FlowBindingError(
            f"Secret {ref.name}, key {ref.key}: not usable for Kafka ({what})",
            reason=Reason.KAFKA_NOT_CONFIGURED,
        ) from None
