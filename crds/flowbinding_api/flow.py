"""`spec.flow`: what runs for each message, and where."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from flowbinding_api.base import (
    ApiModel,
    ConfigMapKeyRef,
    Rule,
    SecretKeyRef,
    Template,
    TemplateTree,
    Url,
)


class Backend(StrEnum):
    """What runs a flow."""

    LANGFLOW = "Langflow"
    LOCAL = "Local"
    ECHO = "Echo"


class LangflowApi(StrEnum):
    """Which API of a Langflow server is called."""

    RUN = "Run"


FlowId = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]*$")
]
HeaderName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9-]+$")
]
InputType = Literal["any", "chat", "text"]
OutputType = Literal["any", "chat", "text", "debug"]
AbsolutePath = Annotated[
    str, StringConstraints(min_length=2, max_length=1024, pattern=r"^/[^\x00]*$")
]


class FlowFile(ApiModel):
    """Where the Local backend finds its flow JSON. A flow file is code that the worker runs."""

    config_map_key_ref: ConfigMapKeyRef | None = None
    """The flow JSON as a key of a ConfigMap (at most 1 MiB)."""
    path: AbsolutePath | None = None
    """An absolute path in the worker's file system."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.configMapKeyRef) != has(self.path)",
            "set exactly one of configMapKeyRef and path",
            holds=lambda file: (file["configMapKeyRef"] is None) != (file["path"] is None),
        ),
    )


class Flow(ApiModel):
    """The flow that runs once for each message."""

    backend: Backend = Backend.LANGFLOW
    """What runs the flow: a Langflow server, the worker itself (Local), or nothing (Echo returns
    its input)."""
    id: FlowId | None = None
    """Flow UUID or endpoint name. Without it a Langflow binding runs nothing: condition
    FlowConfigured is False with reason Skipped."""
    url: Url | None = None
    """Base URL of the Langflow server, e.g. http://langflow:7860."""
    api: LangflowApi = LangflowApi.RUN
    """Langflow API to call: Run is POST /api/v1/run/{id}."""
    api_key_secret_ref: SecretKeyRef | None = None
    """API key of the flow server."""
    api_key_header: HeaderName = "x-api-key"
    """Header that carries the API key."""
    timeout_seconds: Annotated[float, Field(gt=0, le=7200)] = 60
    """How long one run may take, in seconds. The Pod's grace period and the consumer's timeouts
    follow from it."""
    input: Template = "{{ value.message if value.message is defined else text }}"
    """Template of the flow's input text. Variables: value, text, key, headers, topic, partition,
    offset, timestamp, binding."""
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
    file: FlowFile | None = None
    """The flow JSON of the Local backend."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backend != 'Langflow' || has(self.url)",
            "required when backend is Langflow",
            "url",
            lambda flow: flow["backend"] != "Langflow" or flow["url"] is not None,
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
    )

    @property
    def runs(self) -> bool:
        """Whether there is anything to run: a Langflow binding without a flow id is skipped."""
        return self.backend is not Backend.LANGFLOW or self.id is not None
