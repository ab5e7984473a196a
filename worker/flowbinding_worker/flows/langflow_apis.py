"""The three ways to run a flow on a server: what is asked, and how its answer is read; pure.

    Run         POST /api/v1/run/{id or endpoint name}     Langflow
    Workflows   POST /api/v2/workflows                     Langflow and lfx serve
    Serve       POST /flows/{id}/run                       lfx serve

All wait for the answer: the others (streams, background jobs, webhooks) either have no answer, or
one that can be had in this way.
"""

from __future__ import annotations

import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from flowbinding_api.flow import Flow, LangflowApi
from flowbinding_worker.flows.classify import misconfigured
from flowbinding_worker.flows.extract import Extract, extract, extract_served, extract_workflow
from flowbinding_worker.ports import FlowRequest

VARIABLE_HEADER = "X-LANGFLOW-GLOBAL-VAR-"


class Api(ABC):
    """One of the APIs.

    Attributes:
        server: What answers, for messages.
        extract: Reads an answer.
    """

    server = "Langflow"
    extract: Extract

    @abstractmethod
    def path(self, flow_id: str) -> str:
        """Where a flow runs, below the server's base URL."""

    @abstractmethod
    def body(
        self, flow: Flow, request: FlowRequest, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """What is sent."""

    def headers(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Headers beside the usual ones.

        Raises:
            ProcessingError: CONFIGURATION, when no header can carry a value.
        """
        return {}


class Run(Api):
    """Langflow's first API. It knows flows by their endpoint names too."""

    extract = staticmethod(extract)

    def path(self, flow_id: str) -> str:
        """See `Api`; without `stream=false` the server may choose to stream."""
        return f"/api/v1/run/{_quoted(flow_id)}?stream=false"

    def body(
        self, flow: Flow, request: FlowRequest, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """See `Api`."""
        body = {
            "input_value": request.input,
            "input_type": flow.input_type,
            "output_type": flow.output_type,
            "session_id": request.session_id,
            "tweaks": dict(request.tweaks),
        }
        if flow.output_component is not None:
            body["output_component"] = flow.output_component
        return body

    def headers(self, variables: Mapping[str, str]) -> dict[str, str]:
        """See `Api`: variables travel here, and nowhere else."""
        for name, value in variables.items():
            if not (value.isascii() and value.isprintable()):
                raise misconfigured(
                    f"spec.flow.globalVariables.{name}: its value holds characters that no header"
                    " can carry; api Workflows and Serve take any"
                )
        return {f"{VARIABLE_HEADER}{name}": value for name, value in variables.items()}


class Workflows(Api):
    """Langflow's second API: refuses what it does not know, and says why there is no answer."""

    extract = staticmethod(extract_workflow)

    def path(self, flow_id: str) -> str:
        """See `Api`."""
        return "/api/v2/workflows"

    def body(
        self, flow: Flow, request: FlowRequest, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """See `Api`: what is empty is left out, as lfx serve and older servers refuse it."""
        optional = {
            "tweaks": dict(request.tweaks),
            "globals": dict(variables),
            "output_ids": [flow.output_component] if flow.output_component else None,
        }
        return {
            "flow_id": flow.id,
            "input_value": request.input,
            "session_id": request.session_id,
            "mode": "sync",
            **{name: value for name, value in optional.items() if value},
        }


class Serve(Api):
    """lfx serve's own API: the first Chat Output's text, one run at a time in each process."""

    server = "lfx serve"
    extract = staticmethod(extract_served)

    def path(self, flow_id: str) -> str:
        """See `Api`."""
        return f"/flows/{_quoted(flow_id)}/run"

    def body(
        self, flow: Flow, request: FlowRequest, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """See `Api`."""
        body: dict[str, Any] = {"input_value": request.input, "session_id": request.session_id}
        return {**body, "global_vars": dict(variables)} if variables else body


APIS: Mapping[LangflowApi, Api] = {
    LangflowApi.RUN: Run(),
    LangflowApi.WORKFLOWS: Workflows(),
    LangflowApi.SERVE: Serve(),
}


def _quoted(flow_id: str) -> str:
    return urllib.parse.quote(flow_id, safe="")
