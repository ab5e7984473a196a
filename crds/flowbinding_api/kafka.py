"""`spec.kafka`: the way to a Kafka cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from flowbinding_api.base import CERTIFICATE_AND_KEY, ApiModel, Rule, SecretKeyRef
from flowbinding_api.registry import SchemaRegistry

# What a resolver takes: labels of 1 to 63 characters, or an IPv6 address in brackets. Anything else
# is not "unknown host" but an encoding error, in whatever program resolves it.
_HOST = r"([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]{2,45}\])"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
BootstrapServers = Annotated[
    str,
    StringConstraints(
        min_length=3, max_length=4096, pattern=f"^{_HOST}:{_PORT}(,{_HOST}:{_PORT})*$"
    ),
]


class SaslMechanism(StrEnum):
    """How a client proves who it is."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class Tls(ApiModel):
    """TLS to the brokers."""

    enabled: bool = False
    """Whether connections are encrypted."""
    ca_secret_ref: SecretKeyRef | None = None
    """CA certificates (PEM) to trust; the system's when absent."""
    certificate_secret_ref: SecretKeyRef | None = None
    """Client certificate (PEM)."""
    key_secret_ref: SecretKeyRef | None = None
    """Private key (PEM) of the client certificate."""

    rules: ClassVar[tuple[Rule, ...]] = (CERTIFICATE_AND_KEY,)


class Sasl(ApiModel):
    """Authentication to the brokers."""

    mechanism: SaslMechanism
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    username_secret_ref: SecretKeyRef
    """The user name."""
    password_secret_ref: SecretKeyRef
    """The password."""


class Kafka(ApiModel):
    """The Kafka cluster. Omitted fields take the operator's defaults."""

    bootstrap_servers: BootstrapServers | None = None
    """Brokers to ask first: host:port, separated by commas."""
    tls: Tls | None = None
    """TLS to the brokers."""
    sasl: Sasl | None = None
    """Authentication to the brokers."""
    schema_registry: SchemaRegistry | None = None
    """The registry that has the schemas of messages in Avro. The operator has no default for it."""

    @property
    def brokers(self) -> Kafka:
        """What clients of the brokers differ in."""
        if self.schema_registry is None:
            return self
        return self.model_copy(update={"schema_registry": None})
