"""`spec.provisioning`: topics that the operator makes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from flowbinding_api.base import ApiModel

ConfigValue = Annotated[str, StringConstraints(max_length=4096)]


class Provisioning(ApiModel):
    """How the operator makes a binding's source, output and dead-letter topics, if it does."""

    create: bool = False
    """Whether topics that do not exist are created, and those with fewer partitions than
    `partitions` get more. Nothing is ever deleted, and no topic is made smaller."""
    partitions: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Partitions of each topic; the brokers' default (num.partitions) for new topics when
    absent."""
    replication_factor: Annotated[int, Field(ge=1, le=32767)] | None = None
    """Copies of each partition of a new topic; the brokers' default (default.replication.factor)
    when absent. Topics that exist keep theirs."""
    config: Annotated[dict[str, ConfigValue], Field(max_length=64)] = Field(default_factory=dict)
    """Settings of new topics by Kafka's names, with values in quotes, e.g. retention.ms:
    "604800000". Topics that exist keep theirs."""
