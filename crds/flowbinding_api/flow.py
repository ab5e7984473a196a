"""`spec.flow`: what runs for each message, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from flowbinding_api.base import (
    ApiModel,
    Rule,
    SecretKeyRef,
    Template,
    TemplateTree,
    Url,
)
from flowbinding_api.flow_http import FlowAuth, FlowTls, HeaderName, Http
from flowbinding_api.flow_local import FlowFile, LocalOptions, OnMissingEngine


class Backend(StrEnum):
    """What runs a flow."""

    LANGFLOW = "Langflow"
    LOCAL = "Local"
    HTTP = "HTTP"
    ECHO = "Echo"


class LangflowApi(StrEnum):
    """Which API of a Langflow server is called."""

    RUN = "Run"
    WORKFLOWS = "Workflows"
    SERVE = "Serve"


FlowId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._~:/@-]*$"),
]
_VARIABLE = r"^[A-Z][A-Z0-9_-]{0,127}$"
_UUID = r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
InputType = Literal["any", "chat", "text"]
OutputType = Literal["any", "chat", "text", "debug"]


class GlobalVariable(ApiModel):
    """A value for the fields of a flow that take the global variable of that name."""

    value: Annotated[str, StringConstraints(max_length=8192)] | None = None
    """The value itself."""
    secret_key_ref: SecretKeyRef | None = None
    """The value as a key of a Secret; read for each run. Newlines at its end are left out."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.secretKeyRef)",
            "set exactly one of value and secretKeyRef",
            holds=lambda it: (it["value"] is None) != (it["secretKeyRef"] is None),
        ),
    )


def _remote(flow: Mapping[str, Any]) -> bool:
    """Whether a server runs the flow."""
    return flow["backend"] in ("Langflow", "HTTP")


class Flow(ApiModel):
    """The flow that runs once for each message."""

    backend: Backend = Backend.LANGFLOW
    """What runs the flow: a Langflow server, the worker itself (Local), any other server (HTTP), or
    nothing (Echo returns its input)."""
    id: FlowId | None = None
    """Flow UUID or endpoint name. Without it a Langflow binding runs nothing: condition
    FlowConfigured is False with reason Skipped. With HTTP: the model, chatflow, assistant or
    webhook, as the preset's API calls it."""
    url: Url | None = None
    """Base URL of the flow server, e.g. http://langflow:7860."""
    api: LangflowApi = LangflowApi.RUN
    """API of the Langflow server: Run is POST /api/v1/run/{id}; Workflows is POST
    /api/v2/workflows, which wants the flow's UUID; Serve is POST /flows/{id}/run of `lfx serve`."""
    api_key_secret_ref: SecretKeyRef | None = None
    """API key of the flow server."""
    api_key_header: HeaderName = "x-api-key"
    """Header that carries the API key."""
    auth: FlowAuth | None = None
    """What else proves to the flow server who asks: a bearer token, a user and a password, or
    OAuth 2.0 client credentials."""
    tls: FlowTls | None = None
    """TLS to the flow server: another authority than the system's, a client certificate."""
    timeout_seconds: Annotated[float, Field(gt=0, le=7200)] = 60
    """How long one run may take, in seconds. The Pod's grace period and the consumer's timeouts
    follow from it."""
    input: Template = "{{ value.message if value.message is defined else text }}"
    """Template of the flow's input text. Variables: value, text, event, key, headers, topic,
    partition, offset, timestamp, binding."""
    input_type: InputType = "any"
    """Which input component takes the input: any, chat or text."""
    output_type: OutputType = "any"
    """Which output components answer: any, chat, text or debug."""
    output_component: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    """Id of the component whose answer counts; required when a flow has several outputs."""
    session_id: Template = "{{ key or topic ~ '-' ~ partition ~ '-' ~ offset }}"
    """Template of the session. Without one, all messages would share one chat history."""
    tweaks: TemplateTree = Field(default_factory=dict)
    """Overrides of component fields, by component id or name. Strings in it are templates."""
    global_variables: Annotated[dict[str, GlobalVariable], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Values of global variables for these runs, by name (upper case: Langflow's run API knows no
    other), for fields that are set to load a variable."""
    file: FlowFile | None = None
    """The flow JSON of the Local backend."""
    local: LocalOptions | None = None
    """How the Local backend runs flows; absent for the defaults."""
    on_missing_engine: OnMissingEngine = OnMissingEngine.FAIL
    """What the Local backend does in a worker whose image has no lfx: Fail (nothing runs, and a
    condition says why) or Echo (each message is answered with its input)."""
    http: Http | None = None
    """What the HTTP backend sends, and where the answer is in what comes back."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.backend in ['Langflow', 'HTTP']) || has(self.url)",
            "required when backend is Langflow or HTTP",
            "url",
            lambda flow: not _remote(flow) or flow["url"] is not None,
        ),
        Rule(
            "self.backend != 'Local' || has(self.file)",
            "required when backend is Local",
            "file",
            lambda flow: flow["backend"] != "Local" or flow["file"] is not None,
        ),
        Rule(
            "self.backend == 'Local' || !has(self.file)",
            "allowed only when backend is Local",
            "file",
            lambda flow: flow["backend"] == "Local" or flow["file"] is None,
        ),
        Rule(
            "self.backend == 'Local' || !has(self.local)",
            "allowed only when backend is Local",
            "local",
            lambda flow: flow["backend"] == "Local" or flow["local"] is None,
        ),
        Rule(
            "self.backend == 'Local' || self.onMissingEngine == 'Fail'",
            "allowed only when backend is Local",
            "onMissingEngine",
            lambda flow: flow["backend"] == "Local" or flow["onMissingEngine"] == "Fail",
        ),
        Rule(
            "self.backend == 'HTTP' || !has(self.http)",
            "allowed only when backend is HTTP",
            "http",
            lambda flow: flow["backend"] == "HTTP" or flow["http"] is None,
        ),
        Rule(
            "self.backend != 'HTTP' || (!has(self.tweaks) && !has(self.outputComponent))",
            "HTTP takes neither tweaks nor outputComponent; use http.body and http.text",
            "backend",
            lambda flow: (
                flow["backend"] != "HTTP"
                or (not flow["tweaks"] and flow["outputComponent"] is None)
            ),
        ),
        Rule(
            "has(self.id) || !has(self.http) || !has(self.http.preset)"
            " || self.http.preset == 'Dify'",
            "required by this preset: the model (OpenAI), chatflow (Flowise), assistant (LangGraph)"
            " or path of the webhook (N8n)",
            "id",
            lambda flow: (
                (flow["http"] or {}).get("preset") in (None, "Dify") or flow["id"] is not None
            ),
        ),
        Rule(
            "self.backend == 'HTTP' || !has(self.id) || !self.id.matches('[:/@]')",
            "must have no : / or @ unless backend is HTTP",
            "id",
            lambda flow: (
                flow["backend"] == "HTTP"
                or flow["id"] is None
                or re.search("[:/@]", flow["id"]) is None
            ),
        ),
        Rule(
            "self.backend in ['Langflow', 'HTTP'] || !has(self.auth)",
            "allowed only when backend is Langflow or HTTP",
            "auth",
            lambda flow: _remote(flow) or flow["auth"] is None,
        ),
        Rule(
            "!has(self.auth) || !has(self.apiKeySecretRef)"
            " || self.apiKeyHeader.lowerAscii() != 'authorization'",
            "needs the header Authorization, which apiKeyHeader names as well; remove one of them",
            "auth",
            lambda flow: (
                flow["auth"] is None
                or flow["apiKeySecretRef"] is None
                or flow["apiKeyHeader"].lower() != "authorization"
            ),
        ),
        Rule(
            "!has(self.tls) || self.backend in ['Langflow', 'HTTP'] && has(self.url)"
            " && self.url.startsWith('https://')",
            "allowed only with a url that begins with https://",
            "tls",
            lambda flow: (
                flow["tls"] is None
                or (_remote(flow) and (flow["url"] or "").startswith("https://"))
            ),
        ),
        Rule(
            f"self.api != 'Workflows' || !has(self.id) || self.id.matches('{_UUID}')",
            "must be the flow's UUID when api is Workflows",
            "id",
            lambda flow: (
                flow["api"] != "Workflows"
                or flow["id"] is None
                or re.match(_UUID, flow["id"]) is not None
            ),
        ),
        Rule(
            "self.api == 'Run' || (self.inputType in ['any', 'chat'] && self.outputType == 'any')",
            "Workflows and Serve know neither inputType text nor an outputType; use Run",
            "api",
            lambda flow: (
                flow["api"] == "Run"
                or (flow["inputType"] in ("any", "chat") and flow["outputType"] == "any")
            ),
        ),
        Rule(
            "self.api != 'Serve' || (!has(self.tweaks) && !has(self.outputComponent))",
            "Serve takes neither tweaks nor outputComponent; use Workflows, which lfx serve has"
            " too, for outputComponent, and a Langflow server for tweaks",
            "api",
            lambda flow: (
                flow["api"] != "Serve" or (not flow["tweaks"] and flow["outputComponent"] is None)
            ),
        ),
        Rule(
            "self.backend in ['Langflow', 'Local'] || !has(self.globalVariables)",
            "allowed only when backend is Langflow or Local",
            "globalVariables",
            lambda flow: flow["backend"] in ("Langflow", "Local") or not flow["globalVariables"],
        ),
        Rule(
            f"!has(self.globalVariables) || self.globalVariables.all(n, n.matches('{_VARIABLE}'))",
            "names must be upper-case letters, digits, _ and -, and begin with a letter",
            "globalVariables",
            lambda flow: all(re.match(_VARIABLE, name) for name in flow["globalVariables"]),
        ),
    )

    @property
    def runs(self) -> bool:
        """Whether there is anything to run: a Langflow binding without a flow id is skipped."""
        return self.backend is not Backend.LANGFLOW or self.id is not None
