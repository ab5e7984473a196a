"""Settings of the operator: flags of `flowbinding-operator run`, else FLOWBINDING_OPERATOR_…."""

from __future__ import annotations

import json
import socket
import sys
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, NoDecode, SettingsConfigDict

from flowbinding_api.kafka import BootstrapServers, Kafka
from flowbinding_api.worker import PullPolicy, Resources
from flowbinding_operator import __version__

NameList = Annotated[tuple[str, ...], NoDecode]
"""Names, separated by commas."""

DEFAULT_RESOURCES = Resources(requests={"cpu": "100m", "memory": "256Mi"}, limits={"memory": "1Gi"})


def _log_format() -> Literal["json", "console"]:
    return "console" if sys.stderr.isatty() else "json"


class Settings(BaseSettings):
    """What an administrator may set. A flag wins over the environment."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWBINDING_OPERATOR_",
        cli_kebab_case=True,
        cli_prog_name="flowbinding-operator run",
        # Lists are plain names here, and an empty value means "not set" in a chart.
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        extra="ignore",
    )

    namespaces: NameList = ()
    """Namespaces to watch, separated by commas; the whole cluster when empty."""
    kafka: Kafka = Kafka()
    """Default for spec.kafka, as JSON. Its Secrets are looked up in each binding's namespace."""
    kafka_bootstrap_servers: BootstrapServers | None = None
    """Default brokers (host:port, separated by commas); wins over kafka.bootstrapServers."""
    worker_image: Annotated[str, Field(min_length=1)] = f"flowbinding/flowbinding:{__version__}"
    """Container image of the workers."""
    worker_image_pull_policy: PullPolicy | None = None
    """When nodes pull the image; Kubernetes' own default when absent."""
    worker_image_pull_secrets: NameList = ()
    """Names of Secrets for pulling the image, separated by commas."""
    worker_resources: Resources = DEFAULT_RESOURCES
    """Resources of a worker, as JSON, where the binding has none."""
    poll_seconds: Annotated[float, Field(ge=0.1, le=300)] = 2
    """Seconds between two looks at a Kafka cluster."""
    probe_seconds: Annotated[float, Field(ge=0, le=86400)] = 60
    """Seconds between two looks at a flow server, while no worker calls it too; 0 for none."""
    http_address: str = "0.0.0.0:8080"
    """host:port of /livez, /readyz and /metrics."""
    log_format: Literal["json", "console"] = Field(default_factory=_log_format)
    """How log lines look; console on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""
    instance: str = Field(default_factory=socket.gethostname)
    """Name of this operator in Events."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    """Bindings reconciled at the same time."""
    lease: str = ""
    """namespace/name of the Lease by which one of several operators leads; none when empty."""
    lease_seconds: Annotated[float, Field(ge=3, le=300)] = 15
    """After a leader is gone without a word, another follows within so many seconds."""
    check: CliImplicitFlag[bool] = False
    """Only check the settings and the connection to Kubernetes, then exit."""

    @field_validator("namespaces", "worker_image_pull_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @field_validator("http_address")
    @classmethod
    def _address(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        if not (host and separator and port.isdigit() and int(port) <= 65535):
            raise ValueError(f"expected host:port, e.g. 0.0.0.0:8080, got {value!r}")
        return value

    @field_validator("lease")
    @classmethod
    def _lease(cls, value: str) -> str:
        if value and (value.count("/") != 1 or not all(value.split("/"))):
            raise ValueError(f"expected namespace/name, e.g. flowbinding/operator, got {value!r}")
        return value

    @property
    def http_host_port(self) -> tuple[str, int]:
        """Where to listen."""
        host, _, port = self.http_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def default_kafka(self) -> Kafka:
        """What fills the gaps of a binding's spec.kafka."""
        if self.kafka_bootstrap_servers is None:
            return self.kafka
        return self.kafka.model_copy(update={"bootstrap_servers": self.kafka_bootstrap_servers})

    def shown(self) -> dict[str, object]:
        """The resolved settings, for the log. There are no secrets in them, only references."""
        dumped: dict[str, object] = json.loads(self.model_dump_json(by_alias=True))
        return dumped
