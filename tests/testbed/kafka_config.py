"""The settings of a one-node Kafka, from what is wanted of it. Pure: nothing is read or started."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.pki import KeyPair

NODE_ID = 1
# The broker's own user, for what it sends to itself. A name that no test would take.
BROKER_USER = "testbed-broker"
# A password stands in a JAAS line and in --add-scram's list: neither has escapes that both the
# shell of StorageTool and Kafka's parser agree on.
_ALLOWED = set(string.ascii_letters + string.digits + "-_.")

BASE = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "controller.listener.names": "CONTROLLER",
    # One node: nothing can be replicated.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer internal partitions start faster; a group is handed out without the usual wait of 3 s.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the broker waits until its former self counts as gone, 9 s by default.
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "500",
    # A typing error in a topic's name must fail, not make a topic.
    "auto.create.topics.enable": "false",
}


@dataclass(frozen=True)
class Security:
    """What a client needs to be let in."""

    tls: bool = False
    sasl: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    """User names and passwords, valid for PLAIN and for SCRAM alike."""

    def __post_init__(self) -> None:
        """Refuse names and passwords that Kafka's own formats cannot carry."""
        for word in (*self.users, *self.users.values()):
            if not word or not set(word) <= _ALLOWED:
                message = f"Kafka user or password {word!r}: letters, digits, '-', '_' and '.' only"
                raise ValueError(message)

    @property
    def protocol(self) -> str:
        """Kafka's name for the combination."""
        if self.sasl:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"


@dataclass(frozen=True)
class Addresses:
    """Where the broker listens."""

    host: str
    client_port: int
    controller_port: int


def server_properties(
    addresses: Addresses, data: Path, security: Security, tls: KeyPair | None, ca: Path | None
) -> dict[str, str]:
    """The broker's settings."""
    client = f"CLIENT://{addresses.host}:{addresses.client_port}"
    controller = f"{addresses.host}:{addresses.controller_port}"
    properties = {
        **BASE,
        "controller.quorum.voters": f"{NODE_ID}@{controller}",
        "listeners": f"{client},CONTROLLER://{controller}",
        "advertised.listeners": client,
        "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,CLIENT:{security.protocol}",
        "inter.broker.listener.name": "CLIENT",
        "log.dirs": str(data),
    }
    if tls and ca:
        properties |= _tls(tls, ca)
    if security.sasl:
        properties |= _sasl(security)
    return properties


def scram_arguments(security: Security) -> list[str]:
    """The arguments of StorageTool that make the SCRAM users."""
    return [
        argument
        for user, password in security.users.items()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
    ]


def render(properties: Mapping[str, str]) -> str:
    """A Java properties file."""
    return "".join(f"{name}={value}\n" for name, value in sorted(properties.items()))


def _tls(pair: KeyPair, ca: Path) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pair.key.with_suffix(".pem")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
        # A client may show a certificate of the same authority, and need not.
        "ssl.client.auth": "requested",
    }


def _sasl(security: Security) -> dict[str, str]:
    module = "org.apache.kafka.common.security"
    own = security.users[BROKER_USER]
    accepted = " ".join(f'user_{user}="{password}"' for user, password in security.users.items())
    jaas = {
        "plain": f'{module}.plain.PlainLoginModule required username="{BROKER_USER}" '
        f'password="{own}" {accepted};',
        "scram-sha-256": f"{module}.scram.ScramLoginModule required;",
        "scram-sha-512": f"{module}.scram.ScramLoginModule required;",
    }
    return {
        "sasl.enabled.mechanisms": ",".join(mechanism.upper() for mechanism in jaas),
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        **{
            f"listener.name.client.{mechanism}.sasl.jaas.config": line
            for mechanism, line in jaas.items()
        },
    }
