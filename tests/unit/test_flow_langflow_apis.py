"""What each of Langflow's APIs is sent, and how global variables get there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_api import FlowBinding, parse_binding
from flowbinding_api.errors import InvalidBindingError
from flowbinding_api.flow import Flow
from flowbinding_api.masking import masked
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError

UUID = "ab8d1f21-37b9-4734-95cf-b60e829c7baa"
REQUEST = FlowRequest("in-0-7", "hello", "s-1", {"Prompt-p": {"name": "Alice"}})
PLAIN = FlowRequest("in-0-7", "hello", "s-1")
TOKEN = "hunter2-of-the-weather"
ANSWERS: dict[str, Any] = {
    "Run": {"outputs": [{"outputs": [{"component_id": "C", "results": {"m": {"text": "hi"}}}]}]},
    "Workflows": {
        "status": "completed",
        "job_id": "j-1",
        "output": {"reason": "single", "text": "hi", "source": "C"},
        "outputs": {},
    },
    "Serve": {"result": "hi", "success": True, "type": "message", "component": "C", "logs": ""},
}
VARIABLES: dict[str, dict[str, Any]] = {
    "TOKEN": {"secretKeyRef": {"name": "weather", "key": "token"}},
    "CITY": {"value": "Bonn"},
    "EMPTY": {"value": ""},
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    secret = tmp_path / "weather"
    secret.mkdir()
    (secret / "token").write_text(f"{TOKEN}\n")
    return Files(secrets=tmp_path)


class Server:
    """Answers as the API would; keeps what it was sent."""

    def __init__(self, files: Files, api: str, **fields: Any) -> None:
        base = {"backend": "Langflow", "url": "http://langflow:7860/x/", "id": UUID, "api": api}
        self.sent: list[httpx.Request] = []
        self.answer = httpx.Response(200, json=ANSWERS[api])
        self.flow = LangflowFlow(
            Flow.model_validate({**base, **fields}),
            files,
            transport=MockServer(self._handle),
        )

    async def body(self, request: FlowRequest = PLAIN) -> Any:
        """The body of one run that went well."""
        await self.flow.start()
        assert (await self.flow.run(request)).value == "hi"
        await self.flow.close()
        return json.loads(self.sent[-1].content)

    async def refused(self) -> ProcessingError:
        with pytest.raises(ProcessingError) as raised:
            await self.flow.run(PLAIN)
        await self.flow.close()
        return raised.value

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        return self.answer


async def test_workflows(files: Files) -> None:
    server = Server(files, "Workflows", outputComponent="ChatOutput-out")
    assert await server.body(REQUEST) == {
        "flow_id": UUID,
        "input_value": "hello",
        "session_id": "s-1",
        "mode": "sync",
        "tweaks": {"Prompt-p": {"name": "Alice"}},
        "output_ids": ["ChatOutput-out"],
    }
    assert str(server.sent[0].url) == "http://langflow:7860/x/api/v2/workflows"
    assert server.sent[0].headers["x-request-id"] == "in-0-7"


async def test_workflows_gets_nothing_that_is_empty(files: Files) -> None:
    """`lfx serve` and older servers refuse fields that they do not know."""
    sent = await Server(files, "Workflows").body()
    assert sent.keys() == {"flow_id", "input_value", "session_id", "mode"}


async def test_serve(files: Files) -> None:
    server = Server(files, "Serve", id="my/flow.json")
    assert await server.body() == {"input_value": "hello", "session_id": "s-1"}
    assert str(server.sent[0].url) == "http://langflow:7860/x/flows/my%2Fflow.json/run"


async def test_variables_in_headers(files: Files) -> None:
    server = Server(files, "Run", globalVariables=VARIABLES)
    assert "TOKEN" not in json.dumps(await server.body())
    found = {name: value for name, value in server.sent[0].headers.items() if "global" in name}
    assert found == {
        "x-langflow-global-var-token": TOKEN,
        "x-langflow-global-var-city": "Bonn",
        "x-langflow-global-var-empty": "",
    }


@pytest.mark.parametrize(("api", "field"), [("Workflows", "globals"), ("Serve", "global_vars")])
async def test_variables_in_the_body(files: Files, api: str, field: str) -> None:
    server = Server(files, api, globalVariables={**VARIABLES, "NAME": {"value": "Zoë\n"}})
    expected = {"TOKEN": TOKEN, "CITY": "Bonn", "EMPTY": "", "NAME": "Zoë\n"}
    assert (await server.body())[field] == expected
    assert not [name for name in server.sent[0].headers if "global" in name]


async def test_a_variable_changes_with_its_secret(files: Files) -> None:
    server = Server(files, "Serve", globalVariables=VARIABLES)
    await server.body()
    (files.secrets / "weather" / "token").write_text("another")
    assert (await server.body())["global_vars"]["TOKEN"] == "another"


async def test_a_missing_secret_is_told_at_the_start(files: Files) -> None:
    (files.secrets / "weather" / "token").unlink()
    server = Server(files, "Run", globalVariables=VARIABLES)
    for attempt in (server.flow.start, lambda: server.flow.run(PLAIN)):
        with pytest.raises(ProcessingError) as raised:
            await attempt()
        assert raised.value.reason == "SecretMissing"
        assert "spec.flow.globalVariables.TOKEN.secretKeyRef" in str(raised.value)


@pytest.mark.parametrize("value", ["Zoë", "two\nlines", "tab\t"])
async def test_what_no_header_can_carry(files: Files, value: str) -> None:
    server = Server(files, "Run", globalVariables={"NAME": {"value": value}})
    for attempt in (server.flow.start, lambda: server.flow.run(PLAIN)):
        with pytest.raises(ProcessingError) as raised:
            await attempt()
        assert raised.value.failure is Failure.CONFIGURATION
        assert "spec.flow.globalVariables.NAME: its value holds characters" in str(raised.value)
        assert value not in str(raised.value)
    assert not server.sent


async def test_a_variable_that_an_answer_quotes_is_cut_out(files: Files) -> None:
    for api in ANSWERS:
        server = Server(files, api, globalVariables=VARIABLES)
        server.answer = httpx.Response(422, json={"detail": f"no good: {TOKEN}"})
        error = await server.refused()
        assert "no good: ***" in str(error)
        assert TOKEN not in error.response


async def test_no_chat_output_is_a_misconfiguration_until_there_was_an_answer(files: Files) -> None:
    server = Server(files, "Serve")
    good, none = server.answer, {"result": "No response generated", "success": False}
    server.answer = httpx.Response(500, json=none)
    assert (await server.refused()).failure is Failure.CONFIGURATION
    server.answer = good
    await server.body()
    server.answer = httpx.Response(500, json=none)
    error = await server.refused()
    assert (error.failure, error.reason) == (Failure.POISON, "NoAnswer")


def binding(**flow: Any) -> FlowBinding:
    base = {"backend": "Langflow", "url": "http://langflow:7860", "id": UUID}
    return parse_binding(
        {
            "apiVersion": "flowbinding.io/v1alpha1",
            "kind": "FlowBinding",
            "metadata": {"name": "b"},
            "spec": {"source": {"topic": "in"}, "flow": {**base, **flow}},
        }
    )


@pytest.mark.parametrize(
    "flow",
    [
        {"api": "Workflows", "id": UUID.replace("-", "").upper()},
        {"api": "Workflows", "id": None},
        {"api": "Workflows", "inputType": "chat", "tweaks": {"A": {"b": 1}}},
        {"api": "Serve", "id": "anything"},
        {"backend": "Local", "file": {"path": "/f.json"}, "globalVariables": VARIABLES},
    ],
)
def test_what_fits_together(flow: dict[str, Any]) -> None:
    binding(**flow)


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"A": {}}, "spec.flow.globalVariables.A"),
        ({"A": {"value": "x", **VARIABLES["TOKEN"]}}, "spec.flow.globalVariables.A"),
        ({"a": {"value": "x"}}, "spec.flow.globalVariables"),
        ({"A": "x"}, "spec.flow.globalVariables.A"),
    ],
)
def test_wrong_variables(variables: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBindingError) as raised:
        binding(globalVariables=variables)
    assert [problem.path for problem in raised.value.problems] == [field]


def test_a_manifest_that_is_shown_has_no_variables_in_it() -> None:
    shown = masked(binding(globalVariables=VARIABLES))["spec"]["flow"]["globalVariables"]
    assert shown == {**VARIABLES, "CITY": {"value": "***"}, "EMPTY": {"value": "***"}}
