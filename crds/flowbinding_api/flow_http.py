"""`spec.flow.http`, `spec.flow.auth`, `spec.flow.tls`: what any flow server is asked, and how."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from flowbinding_api.base import (
    CERTIFICATE_AND_KEY,
    ApiModel,
    HeaderTemplate,
    RequestTemplate,
    RequestTree,
    Rule,
    SecretKeyRef,
)

_FRAMING = ("connection", "content-length", "host", "transfer-encoding")
_HEADER = "^[A-Za-z0-9-]{1,128}$"
HeaderName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9-]+$")
]
JsonPointer = Annotated[str, StringConstraints(max_length=1024, pattern=r"^(/([^~/]|~[01])*)*$")]
"""A JSON pointer (RFC 6901); the empty one means the whole document, -1 the last of a list."""


PlainUrl = Annotated[
    str,
    StringConstraints(min_length=8, max_length=2048, pattern=r"^https?://[^\s/@?#]+(/[^\s]*)?$"),
]
"""An http or https URL without a user or a password in it."""


class Preset(StrEnum):
    """Whose API is called; `presets` has what each stands for."""

    OPENAI = "OpenAI"
    FLOWISE = "Flowise"
    DIFY = "Dify"
    LANGGRAPH = "LangGraph"
    N8N = "N8n"


class HttpMethod(StrEnum):
    """What is asked of a resource."""

    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    GET = "GET"
    DELETE = "DELETE"

    @property
    def has_body(self) -> bool:
        """Whether a body is sent."""
        return self not in (HttpMethod.GET, HttpMethod.DELETE)


class Http(ApiModel):
    """What the HTTP backend sends for each message, and where the answer is in what comes back."""

    preset: Preset | None = None
    """Whose API is called. It gives the defaults of the other fields; set ones win."""
    method: HttpMethod | None = None
    """Method of the request; POST when neither it nor the preset is set."""
    path: RequestTemplate | None = None
    """Template of the path below spec.flow.url, with a query if need be. What its expressions
    give is percent-encoded; the filter `safe` prevents that. Variables: those of spec.flow.input,
    and input, session, flow (spec.flow.id)."""
    headers: Annotated[dict[str, HeaderTemplate], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Headers by name, beside the preset's; values are templates, with the same variables. Secrets
    belong in spec.flow.auth or spec.flow.apiKeySecretRef."""
    body: RequestTree | None = None
    """The JSON body. Strings in it are templates, with the same variables; one that is a single
    expression keeps its type. Keys are added to the preset's, and win. Without both, the body is
    {"input": "{{ input }}", "session": "{{ session }}"}."""
    text: JsonPointer | None = None
    """JSON pointer to the answer in what comes back, e.g. /choices/0/message/content; -1 is the
    last item of a list. When absent or empty, all that comes back is the answer."""
    status: JsonPointer | None = None
    """JSON pointer to what says whether the run succeeded, in answers with an HTTP status 2xx."""
    success: (
        Annotated[
            list[Annotated[str, StringConstraints(max_length=256)]],
            Field(min_length=1, max_length=16),
        ]
        | None
    ) = None
    """The values at `status` that mean success, as text: true, 0, succeeded."""
    error: JsonPointer | None = None
    """JSON pointer to the message of a failure. Without `status`, an answer that has something
    there is a failed run even with an HTTP status 2xx."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.status) == has(self.success)",
            "goes with status: set both or none",
            "success",
            lambda http: (http["status"] is None) == (http["success"] is None),
        ),
        Rule(
            "!has(self.body) || !has(self.method) || !(self.method in ['GET', 'DELETE'])",
            "allowed only with the methods POST, PUT and PATCH",
            "body",
            lambda http: http["body"] is None or http["method"] not in ("GET", "DELETE"),
        ),
        Rule(
            f"!has(self.headers) || self.headers.all(name, name.matches('{_HEADER}')"
            f" && !(name.lowerAscii() in {list(_FRAMING)}))",
            "names must be 1 to 128 letters, digits and hyphens; not those that frame a message: "
            + ", ".join(_FRAMING),
            "headers",
            lambda http: all(
                re.match(_HEADER, name) and name.lower() not in _FRAMING for name in http["headers"]
            ),
        ),
    )


class BasicAuth(ApiModel):
    """A user and a password, as HTTP Basic."""

    username_secret_ref: SecretKeyRef
    """The user name."""
    password_secret_ref: SecretKeyRef
    """The password."""


class OAuth2(ApiModel):
    """Tokens by OAuth 2.0 client credentials (RFC 6749, section 4.4)."""

    token_url: PlainUrl
    """The token endpoint; without a user or a password in it."""
    client_id_secret_ref: SecretKeyRef
    """The client id."""
    client_secret_secret_ref: SecretKeyRef
    """The client secret; sent as HTTP Basic, as the RFC prefers."""
    scopes: Annotated[
        list[
            Annotated[
                str,
                StringConstraints(
                    min_length=1, max_length=256, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$"
                ),
            ]
        ],
        Field(max_length=64),
    ] = Field(default_factory=list)
    """Scopes to ask for."""
    audience: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None
    """The parameter `audience`, which some servers want."""


class FlowAuth(ApiModel):
    """What proves to a server who asks, in the header Authorization; exactly one way."""

    bearer_token_secret_ref: SecretKeyRef | None = None
    """A bearer token."""
    basic: BasicAuth | None = None
    """A user and a password."""
    oauth2: OAuth2 | None = None
    """Tokens that an authorisation server gives out: kept, and asked for anew in time."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.bearerTokenSecretRef), has(self.basic), has(self.oauth2)]"
            ".filter(given, given).size() == 1",
            "set exactly one of bearerTokenSecretRef, basic and oauth2",
            holds=lambda auth: sum(value is not None for value in auth.values()) == 1,
        ),
    )


class FlowTls(ApiModel):
    """TLS to a server."""

    ca_secret_ref: SecretKeyRef | None = None
    """CA certificates (PEM) to trust; the system's when absent. The token endpoint of
    auth.oauth2 may have a certificate of either."""
    certificate_secret_ref: SecretKeyRef | None = None
    """Client certificate (PEM), with its chain."""
    key_secret_ref: SecretKeyRef | None = None
    """Private key (PEM) of the client certificate, without a passphrase."""

    rules: ClassVar[tuple[Rule, ...]] = (CERTIFICATE_AND_KEY,)
