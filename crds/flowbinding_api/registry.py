"""`spec.kafka.schemaRegistry`: where the schemas of messages are."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from flowbinding_api.base import ApiModel, Rule
from flowbinding_api.flow_http import FlowAuth, FlowTls, PlainUrl


class SchemaRegistry(ApiModel):
    """A schema registry with Confluent's interface."""

    url: PlainUrl
    """Base URL of the interface, without a user or a password in it, e.g.
    http://schema-registry:8081, or https://apicurio/apis/ccompat/v7."""
    auth: FlowAuth | None = None
    """What proves to the registry who asks: a bearer token, a user and a password (an API key and
    its secret, with Confluent Cloud), or OAuth 2.0 client credentials."""
    tls: FlowTls | None = None
    """TLS to the registry: another authority than the system's, a client certificate."""
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    """How long one request may take, in seconds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.tls) || self.url.startsWith('https://')",
            "allowed only with a url that begins with https://",
            "tls",
            lambda registry: registry["tls"] is None or registry["url"].startswith("https://"),
        ),
    )
