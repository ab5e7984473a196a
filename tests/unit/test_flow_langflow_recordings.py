"""Every answer that was recorded of langflow 1.13.0 and lfx serve 1.13.0, and what we make of it.

That of another API than a binding's own (streams, background jobs, webhooks) is among them: a proxy
or a wrong URL may bring it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError

RECORDINGS = Path(__file__).parents[1] / "data" / "langflow"
OBJECT = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}
ROWS = [{"text": "hi", "n": 1}, {"text": "row2", "n": 2}]
STREAM = "expected JSON, got text/event-stream"
FOREIGN = "the answer is not that of"
SEVERAL = "set spec.flow.outputComponent to one of ChatOutput-out (Chat Output), ChatOutput-two"
NOTHING = "gave nothing that spec.flow.api Workflows hands out; connect a Chat Output, or use Run"

VALUES: dict[str, Any] = {
    "auth-query": "hi",
    "err-extra-field": "hi",
    # What Langflow does with types that it does not expect, and why ours are checked before.
    "err-invalid-type-input": "",
    "err-invalid-type-inputtype": "",
    "run-data-terminal-outcomp": OBJECT,
    "run-echo-any": "hello",
    "run-echo-by-endpoint": "hello",
    "run-echo-by-id": "hello",
    "run-echo-defaults": "hello",
    "run-echo-emptybody": "",
    "run-echo-inputtypetext": "",
    "run-echo-nobody": "",
    "run-echo-outcomp": "hello",
    "run-echo-outtext": "hello",
    "run-echo-streamfalse": "hello",
    "run-echo-tweak-input-only": "zz",
    "run-embedded-body": "emb",
    "run-frame-terminal-outcomp": ROWS,
    "run-globalvar-header": "Hello World, you said: hi",
    "run-hook": "```json\n{}\n```",
    "run-hook-tweak": '```json\n{\n  "a": 2\n}\n```',
    "run-prompt": "Hello World, you said: hi",
    "run-prompt-tweak-badtype": "Hello World, you said: hi",
    "run-prompt-tweak-display": "Hello Bob, you said: hi",
    "run-prompt-tweak-flat": "Hello Flat, you said: hi",
    "run-prompt-tweak-id": "Hello Alice, you said: hi",
    "run-prompt-tweak-notdict": "Hello World, you said: ",
    "run-prompt-tweak-unknown-field": "Hello World, you said: hi",
    "run-prompt-tweak-unknown-node": "Hello World, you said: hi",
    "run-text-echo-any": "hello",
    "run-text-echo-chat": "",
    "run-text-echo-text": "hello",
    "run-data-chat": '```json\n{\n  "text": "data:hi",\n  "score": 0.5,\n  "tags": [\n    "a",\n'
    '    "b"\n  ]\n}\n```',
    "run-frame-chat": "| text   |   n |\n|:-------|----:|\n| hi     |   1 |\n| row2   |   2 |",
    "v2-bg-status-1": "slept:hello",
    "v2-prompt-tweak": "Hello Al, you said: hello",
    "v2-sync": "hello",
    "v2-sync-name": "hello",
    # Workflows gives its input to Chat Inputs alone.
    "v2-text-echo": "",
    "v2-tweak-unknown": "Hello World, you said: x",
    "v2-two-outputid": "x",
    "lfx-serve/run-echo": "hello",
    "lfx-serve/run-prompt": "Hello World, you said: hello",
    # lfx serve's own API takes the first, and does not say that there are others.
    "lfx-serve/run-two": "hello",
    "lfx-serve/v2-echo": "hello",
}

MISCONFIGURED: dict[str, str] = {
    "err-get": "405: Method Not Allowed; check spec.flow.url",
    "run-data-terminal": "no output component answered: give the flow a Chat Output",
    "run-data-terminal-debug": "one of ChatInput-in (Chat Input), MakeData-x (Make Data)",
    "run-echo-debug": "one of ChatInput-in (Chat Input), ChatOutput-out (Chat Output)",
    "run-echo-outcomp-unknown": "component ChatOutput-zzz did not answer",
    "run-echo-tweak-input-clash": "400: If you pass an input_value to the chat input, you cannot"
    " pass a tweak with the same name.; check spec.flow.tweaks",
    "run-echo-two": SEVERAL,
    "run-prompt-tweak-code": "422: The field is protected and keeps the value set by the flow"
    " author. (code); check spec.flow.tweaks",
    "stream-echo": STREAM,
    "stream-raises": STREAM,
    "v1-responses": FOREIGN,
    "v1-responses-raises": FOREIGN,
    "v1-responses-unknown": FOREIGN,
    "v2-bad-outputid": "422: output_ids not produced by this flow: ['nope'].; set"
    " spec.flow.outputComponent to one of ChatOutput-out",
    "v2-bg": FOREIGN,
    "v2-bg-events": STREAM,
    "v2-bg-idem-1": FOREIGN,
    "v2-bg-idem-2": FOREIGN,
    "v2-bg-idem-3-otherinput": FOREIGN,
    "v2-bg-raises": FOREIGN,
    "v2-bg-status-0": FOREIGN,
    "v2-data-terminal": f"output MakeData-x (Make Data) {NOTHING}",
    "v2-extra": "422: body.zzz: Extra inputs are not permitted; the server is too old",
    "v2-frame-terminal": f"output MakeFrame-x (Make Frame) {NOTHING}",
    "v2-stream": STREAM,
    "v2-stream-agui": STREAM,
    "v2-tweak-code": "(code); check spec.flow.tweaks",
    "v2-two": SEVERAL,
    "v2-unknown": "must be a UUID",
    "webhook-echo": FOREIGN,
    "webhook-hook": FOREIGN,
    "lfx-serve/flows": FOREIGN,
    "lfx-serve/info": FOREIGN,
    "lfx-serve/run-data": "500: No response generated; give the flow a Chat Output",
    "lfx-serve/stream-echo": STREAM,
    "lfx-serve/v2-data-terminal": f"output MakeData-x (Make Data) {NOTHING}",
    "lfx-serve/v2-echo-two": SEVERAL,
    "lfx-serve/v2-prompt-tweak": "(tweaks); remove spec.flow.tweaks, or call a Langflow server",
}

UNAUTHORIZED: dict[str, str] = {
    "auth-bearer-apikey": "403: An API key must be passed as query or header",
    "err-missing-key": "403: An API key must be passed as query or header",
    "err-wrong-key": "403: Invalid or missing API key; check spec.flow.apiKeySecretRef",
    "v2-wrong-key": "403: Invalid API key; check spec.flow.apiKeySecretRef",
    "webhook-hook-nokey": "403: API key required when webhook authentication is enabled",
    "lfx-serve/run-noauth": "lfx serve answered 401: API key required",
    "lfx-serve/run-wrongkey": "lfx serve answered 401: Invalid API key",
}

NOT_FOUND: dict[str, str] = {
    "err-unknown-name": "404: Flow identifier no-such-flow not found; check spec.flow.id",
    "err-unknown-uuid": "not found; check spec.flow.id",
    "stream-unknown": "404: Flow identifier nope not found; check spec.flow.id",
    "v2-status-unknown": "404: Workflow job",
    "v2-stop-unknown": "404: Job",
    "v2-unknown-uuid": "404: Flow '00000000-0000-4000-8000-000000000000' does not exist.",
    "webhook-unknown": "404: Flow identifier nope not found; check spec.flow.id",
    "lfx-serve/run-unknown": "lfx serve answered 404: flow not found; check spec.flow.id",
    "lfx-serve/v2-unknown": "404: flow not found; check spec.flow.id",
}

FAILED: dict[str, str] = {
    "run-raises": "Langflow answered 500: Error running graph: Error building Component Boom: boom"
    " on purpose: hi",
    "v2-bg-raises-status": "500: Job 3560e7a5-afbf-4b58-87ce-2d9a09027015 has failed execution.",
    "v2-sync-raises": "Error running graph: Error building Component Boom: boom on purpose: hello",
    "lfx-serve/run-raises": "lfx serve answered 500: Error building Component Boom: boom on"
    " purpose: hello",
    "lfx-serve/v2-raises": "Error running graph: Error building Component Boom: boom on purpose",
}

POISON: dict[str, str] = {
    "err-body-list": "422: body.input_request: Field required; body.context: Field required",
    "err-invalid-json": "422: body.20: JSON decode error",
    "v2-bad-body": "422: body.flow_id: Field required",
    "v2-bad-type": "422: body.input_value: Input should be a valid string",
    "v2-unknown-protocol": "422: Unknown stream_protocol 'zzz'.",
    "lfx-serve/run-badbody": "422: body.input_value: Field required",
    "lfx-serve/v2-bg": "422: This runtime supports mode 'sync' and 'stream'",
}

KINDS = (
    (MISCONFIGURED, Failure.CONFIGURATION, "FlowMisconfigured"),
    (UNAUTHORIZED, Failure.CONFIGURATION, "FlowUnauthorized"),
    (NOT_FOUND, Failure.CONFIGURATION, "FlowNotFound"),
    (FAILED, Failure.TRANSIENT, "FlowFailing"),
    (POISON, Failure.POISON, "RequestRefused"),
)


class Recording(NamedTuple):
    """An answer, and the component that was asked for."""

    api: str
    component: str | None
    response: httpx.Response


def recorded(name: str) -> Recording:
    served = name.startswith("lfx-serve/")
    path = RECORDINGS / f"{name}.json"
    if not path.exists():
        text = path.with_suffix(".txt").read_text()
        # Those of a server begin with how they came.
        status = 404 if "# status 404" in text else 200
        kind = "application/json" if status == 404 else "text/event-stream; charset=utf-8"
        body = text.splitlines()[-1] if status == 404 else text
        api = "Workflows" if "v2" in name else "Serve" if served else "Run"
        return Recording(
            api, None, httpx.Response(status, headers={"content-type": kind}, text=body)
        )
    document = json.loads(path.read_text())
    asked = document["request"]
    sent = asked["body"] if isinstance(asked["body"], dict) else {}
    component = sent.get("output_component") or next(iter(sent.get("output_ids", [])), None)
    api = "Workflows" if "/v2/" in asked["path"] else "Serve" if served else "Run"
    return Recording(api, component, httpx.Response(document["status"], json=document["response"]))


async def result(name: str) -> FlowResult:
    recording = recorded(name)
    fields = {"id": "ab8d1f21-37b9-4734-95cf-b60e829c7baa", "api": recording.api}
    if recording.component is not None:
        fields["outputComponent"] = recording.component
    flow = Flow.model_validate({"backend": "Langflow", "url": "http://langflow", **fields})
    answers = MockServer(lambda _: recording.response)
    client = LangflowFlow(flow, Files(), transport=answers)
    try:
        return await client.run(FlowRequest("in-0-7", "hello", "s-1"))
    finally:
        await client.close()


@pytest.mark.parametrize("name", VALUES)
async def test_answers(name: str) -> None:
    assert (await result(name)).value == VALUES[name]


@pytest.mark.parametrize(
    ("name", "failure", "reason", "message"),
    [(name, *rest, text) for texts, *rest in KINDS for name, text in texts.items()],
)
async def test_failures(name: str, failure: Failure, reason: str, message: str) -> None:
    with pytest.raises(ProcessingError) as raised:
        await result(name)
    error = raised.value
    assert (error.failure, error.reason) == (failure, reason)
    assert message in str(error)
    assert "\n" not in str(error)


def test_no_recording_is_left_out() -> None:
    known = [name for texts, *_ in ((VALUES,), *KINDS) for name in texts]
    files = (p for p in RECORDINGS.rglob("*") if p.is_file())
    assert sorted(known) == sorted(str(p.relative_to(RECORDINGS).with_suffix("")) for p in files)


async def test_a_run_can_be_found_again() -> None:
    assert (await result("v2-sync")).run_id == "a28be2da-c3f1-4099-903c-7f62369f0f52"
    assert (await result("err-extra-field")).run_id == "6380f96a-8cc2-4239-9b8e-df7e658fb6a0"
    assert (await result("lfx-serve/run-echo")).run_id is None
