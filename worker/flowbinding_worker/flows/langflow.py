"""Flows on a Langflow server, or on lfx serve."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from flowbinding_api.flow import Flow
from flowbinding_worker import jsons
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import Answer, http_failure
from flowbinding_worker.flows.extract import Answers
from flowbinding_worker.flows.http_client import FlowClient, Server
from flowbinding_worker.flows.langflow_apis import APIS
from flowbinding_worker.flows.transport import Transport
from flowbinding_worker.flows.variables import global_variables
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage


class LangflowFlow:
    """Runs a flow through one of Langflow's APIs (`spec.flow.api`).

    Langflow's run API ignores what it does not understand (a wrong type becomes an empty input, an
    unknown tweak is dropped), so types are checked here before anything is sent. All go on with a
    run whose client has left: a timeout is an unknown outcome.

    Args:
        flow: A flow with backend Langflow and an id.
        files: Where its Secrets are mounted; read for each run, so that a new key works at once.
        transport: Instead of a real one, in tests.
    """

    def __init__(self, flow: Flow, files: Files, *, transport: Transport | None = None) -> None:
        self._flow = flow
        self._files = files
        self._api = APIS[flow.api]
        self._client = FlowClient(Server.of_flow(flow), files, transport=transport)
        self._url: httpx.URL | None = None
        self._answers = Answers(flow.output_component, self._api.extract)

    async def start(self) -> None:
        """Prepare the client and check that all Secrets can be read; calls nothing.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing, FlowUnauthorized or
                FlowMisconfigured.
        """
        self._client.check()
        self._api.headers(global_variables(self._flow, self._files))

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once; see `classify` for what each failure means.

        Raises:
            ProcessingError: Classified.
        """
        _check_types(request.input, request.session_id, request.tweaks)
        if self._url is None:
            self._url = self._run_url()
        variables = global_variables(self._flow, self._files)
        headers = {
            "X-Request-Id": request.request_id,
            "Content-Type": "application/json",
            **self._api.headers(variables),
        }
        body = _encoded(self._api.body(self._flow, request, variables))
        return self._result(await self._client.call("POST", self._url, headers, body))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _run_url(self) -> httpx.URL:
        base = self._client.base
        path, _, query = self._api.path(self._flow.id or "").partition("?")
        url = base.copy_with(path=base.path.rstrip("/") + path)
        return url.copy_merge_params(httpx.QueryParams(query)) if query else url

    def _result(self, answer: Answer) -> FlowResult:
        if not 200 <= answer.status < 300 or not answer.is_json:
            error = http_failure(answer, now=datetime.now(UTC), server=self._api.server)
            raise self._answers.judged(error) if error.ran else error
        try:
            document = jsons.parse(answer.body)
        except ValueError:
            raise ProcessingError(
                f"{self._api.server} answered {answer.status} with broken JSON",
                failure=Failure.POISON,
                stage=Stage.CALL,
                reason="AnswerInvalid",
                status=answer.status,
                response=answer.body,
            ) from None
        return self._answers.of(document)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return jsons.dump_finite(body)
    except (TypeError, ValueError) as error:
        raise _refused(f"spec.flow.tweaks: not JSON data: {error}") from None


def _check_types(text: Any, session: Any, tweaks: Any) -> None:
    """Refuse what Langflow would take for an empty input, with a 200."""
    if not isinstance(text, str):
        raise _refused(f"spec.flow.input: expected text, got {type(text).__name__}")
    if not isinstance(session, str) or not session:
        raise _refused("spec.flow.sessionId: expected text that is not empty")
    if not isinstance(tweaks, (dict, Mapping)):
        raise _refused(f"spec.flow.tweaks: expected an object, got {type(tweaks).__name__}")


def _refused(message: str) -> ProcessingError:
    return ProcessingError(
        message, failure=Failure.POISON, stage=Stage.TEMPLATE, reason="TemplateFailed"
    )
