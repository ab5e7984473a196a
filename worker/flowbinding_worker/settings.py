"""The worker's command line and its environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, CliImplicitFlag, CliSubCommand, SettingsConfigDict

from flowbinding_api.base import (
    CONFIGMAPS_DIRECTORY,
    FLOW_VOLUME_DIRECTORY,
    SECRETS_DIRECTORY,
    SPOOL_DIRECTORY,
)


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected HOST:PORT")
    return text


class Run(BaseSettings):
    """Run a FlowBinding manifest: consume its topics and run its flow for every message."""

    model_config = SettingsConfigDict(env_prefix="FLOWBINDING_", extra="ignore")

    file: str | None = Field(None, description="Manifest; - reads standard input")
    http_address: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:8080", description="HOST:PORT of /livez, /readyz and /metrics"
    )
    secrets: Path = Field(
        Path(SECRETS_DIRECTORY), description="Directory with <Secret name>/<key> files"
    )
    configmaps: Path = Field(
        Path(CONFIGMAPS_DIRECTORY), description="Directory with <ConfigMap name>/<key> files"
    )
    flow_volume: Path = Field(
        Path(FLOW_VOLUME_DIRECTORY),
        description="Directory with the volume of spec.flow.file.persistentVolumeClaim",
    )
    spool: Path = Field(
        Path(SPOOL_DIRECTORY),
        description="Directory in which results wait while Kafka does not take them",
    )
    once: CliImplicitFlag[bool] = Field(
        False, description="Run the one message of source.schedule, and end"
    )
    job: str | None = Field(
        None, description="With --once: name of the Kubernetes Job, which holds when it was due"
    )
    termination_log: Path = Field(
        Path("/dev/termination-log"),
        description="With --once: file, if it exists, for why the run failed",
    )
    instance: str = Field(
        default_factory=socket.gethostname, description="Name of this worker in logs and headers"
    )


class Command(BaseSettings):
    """Runs an AI flow for every message of a Kafka topic."""

    model_config = SettingsConfigDict(
        # Without a prefix of its own, a variable called RUN would be taken for the subcommand.
        env_prefix="FLOWBINDING_COMMAND_",
        cli_prog_name="flowbinding-worker",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_enforce_required=True,
    )

    run: CliSubCommand[Run]
