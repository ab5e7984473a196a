"""A real Kafka broker on this machine: one KRaft node, plain or secured."""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path

from testbed import files, kafka_config, kafka_runtime
from testbed.component import Component, Program
from testbed.errors import TestbedError
from testbed.kafka_config import BROKER_USER, Addresses, Security
from testbed.pki import Authority, KeyPair
from testbed.state import LOOPBACK, State


class KafkaBroker:
    """One broker in a folder. A second object for the same folder means the same broker.

    It keeps its port and its data over stop, kill and start. Use it as a context manager to stop
    it at the end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: bool = False,
        sasl: bool = False,
        users: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        state: State | None = None,
        logs: Path | None = None,
    ) -> None:
        """Attach to the folder; nothing is started yet.

        Args:
            folder: Data, certificates, log and state.
            tls: Encrypt, with an authority of its own (``ca``).
            sasl: Ask for a user and a password, by PLAIN or SCRAM (SHA-256 or SHA-512).
            users: Names and passwords; without them one user ``client`` with a random password.
            properties: Broker settings that replace the testbed's.
            state: Where addresses and processes are kept, when not in the folder.
            logs: The folder of the log, when not this one.
        """
        self.folder = folder.absolute()
        self.state = state or State(self.folder / "state.json")
        self._log = (logs or self.folder).absolute() / "kafka.log"
        self._extra = dict(properties or {})
        self._security = Security(tls, sasl, self._users(users) if sasl else {})
        self._authority = Authority(self.folder / "pki", "testbed Kafka") if tls else None

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"{LOOPBACK}:{self.state.port('kafka')}"

    @property
    def protocol(self) -> str:
        """``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``."""
        return self._security.protocol

    @property
    def users(self) -> dict[str, str]:
        """Users and their passwords, without the broker's own."""
        users = self._security.users.items()
        return {name: password for name, password in users if name != BROKER_USER}

    @property
    def ca(self) -> Path:
        """The certificate that clients have to trust."""
        return self._tls_authority().certificate

    def client_certificate(self, name: str) -> KeyPair:
        """A certificate that the broker trusts, for a client that shows one."""
        return self._tls_authority().issue(f"client-{name}", name)

    def ssl_context(self) -> ssl.SSLContext | None:
        """For a Python client; None without TLS."""
        return self._authority.trust() if self._authority else None

    @property
    def component(self) -> Component:
        """The process."""
        return Component(
            Program(
                name="kafka",
                command=self._command,
                log=self._log,
                ready=self._ready,
                prepare=self._prepare,
                start_seconds=120,
                stop_seconds=20,
            ),
            self.state,
        )

    @property
    def pid(self) -> int | None:
        """The process number, or None while it does not run."""
        return self.component.pid

    def start(self) -> None:
        """Start it unless it runs, and wait until it serves clients."""
        self.component.start()

    def stop(self) -> None:
        """Shut it down in order."""
        self.component.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.component.kill()

    def restart(self) -> None:
        """Stop and start, at the same port and with the same data."""
        self.component.restart()

    def __enter__(self) -> KafkaBroker:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _command(self) -> list[str]:
        return kafka_runtime.server(self._config)

    def _users(self, given: Mapping[str, str] | None) -> dict[str, str]:
        # Random passwords are kept: SCRAM users are made when the data folder is.
        users: dict[str, str] | None = self.state.get("kafka-users")
        if users is None:
            users = dict(given or {"client": secrets.token_hex(12)})
            users[BROKER_USER] = secrets.token_hex(12)
            self.state.set("kafka-users", users)
        return users

    def _tls_authority(self) -> Authority:
        if not self._authority:
            raise TestbedError("this Kafka broker has no certificates", hint="Give it tls=True.")
        return self._authority

    def _certificate(self) -> KeyPair | None:
        if not self._authority:
            return None
        pair = self._authority.issue("broker", "kafka", hosts=(LOOPBACK, "localhost"))
        # Kafka wants key and certificate in one file.
        joined = pair.key.read_text() + pair.certificate.read_text()
        files.write(pair.key.with_suffix(".pem"), joined, 0o600)
        return pair

    def _prepare(self) -> None:
        addresses = Addresses(
            LOOPBACK, self.state.port("kafka"), self.state.port("kafka-controller")
        )
        ca = self._authority.certificate if self._authority else None
        properties = kafka_config.server_properties(
            addresses, self._data, self._security, self._certificate(), ca
        )
        # It may hold passwords.
        files.write(self._config, kafka_config.render({**properties, **self._extra}), 0o600)
        if not (self._data / "meta.properties").exists():
            kafka_runtime.format_storage(
                self._config, *kafka_config.scram_arguments(self._security)
            )
        # The word that it is started is looked for in this start's log only.
        if self._log.exists():
            self._log.rename(self._log.with_suffix(".previous.log"))

    def _ready(self) -> bool:
        port = self.state.port("kafka")
        return kafka_runtime.started(self._log) and answers(LOOPBACK, port, self.ssl_context())


def answers(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    """Whether a broker answers ApiVersions there: the one request that needs no login."""
    api_versions = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, port), timeout=5) as plain:
            stream = context.wrap_socket(plain, server_hostname=host) if context else plain
            with stream:
                stream.sendall(struct.pack(">i", len(api_versions)) + api_versions)
                # Length, the correlation we sent, and error 0.
                answer = stream.makefile("rb").read(10)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)
