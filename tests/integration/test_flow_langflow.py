"""The run API of a real Langflow server; and the same messages with lfx in process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError
from integration.langflow.server import LangflowServer, running

FLOWS = Path(__file__).parent / "langflow" / "flows"
DATA = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}

pytestmark = [
    # One process has the server, instead of each its own.
    pytest.mark.xdist_group("langflow"),
    # The first run installs 1.3 GB; each start of the server takes half a minute.
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince212"),
]


@pytest.fixture(scope="session")
def server() -> Iterator[LangflowServer]:
    with running({path.stem: path for path in sorted(FLOWS.glob("*.json"))}) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path, server: LangflowServer) -> Files:
    for key, content in (("good", server.api_key), ("wrong", "sk-wrong")):
        (tmp_path / "langflow").mkdir(exist_ok=True)
        (tmp_path / "langflow" / key).write_text(content)
    return Files(secrets=tmp_path)


def remote(
    server: LangflowServer, files: Files, flow_id: str, key: str = "good", **fields: Any
) -> LangflowFlow:
    flow = {
        "backend": "Langflow",
        "url": server.url,
        "id": flow_id,
        "apiKeySecretRef": {"name": "langflow", "key": key},
    }
    return LangflowFlow(Flow.model_validate({**flow, **fields}), files, slots=8)


def request(
    text: str = "hi", session: str = "s-1", tweaks: dict[str, Any] | None = None
) -> FlowRequest:
    return FlowRequest("in-0-7", text, session, tweaks or {})


async def answer(flow: LangflowFlow | LocalFlow, asked: FlowRequest) -> Any:
    try:
        await flow.start()
        return (await flow.run(asked)).value
    finally:
        await flow.close()


async def refused(
    flow: LangflowFlow | LocalFlow, asked: FlowRequest | None = None
) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await answer(flow, asked or request())
    return raised.value


async def test_by_id_and_by_name(server: LangflowServer, files: Files) -> None:
    for identity in (server.flows["echo"], "echo"):
        assert await answer(remote(server, files, identity), request("a\nb")) == "a\nb"


async def test_tweaks(server: LangflowServer, files: Files) -> None:
    asked = request(tweaks={"Prompt-p": {"name": "Alice"}})
    assert await answer(remote(server, files, "prompt"), asked) == "Hello Alice: hi"
    assert await answer(remote(server, files, "prompt"), request()) == "Hello nobody: hi"


async def test_a_session_reaches_the_flow(server: LangflowServer, files: Files) -> None:
    flow = remote(server, files, "whoami")
    results = await asyncio.gather(*(flow.run(request(f"t-{n}", f"s-{n}")) for n in range(20)))
    await flow.close()
    assert [result.value for result in results] == [f"s-{n}|t-{n}" for n in range(20)]
    assert len({result.run_id for result in results}) == 20


async def test_data(server: LangflowServer, files: Files) -> None:
    assert as_data(await answer(remote(server, files, "data-chat"), request())) == DATA
    chosen = remote(server, files, "data-terminal", outputComponent="MakeData-x")
    assert await answer(chosen, request()) == DATA


async def test_outputs(server: LangflowServer, files: Files) -> None:
    error = await refused(remote(server, files, "echo-two"))
    assert error.failure is Failure.CONFIGURATION
    assert "ChatOutput-out (Chat Output), ChatOutput-two (Chat Output)" in str(error)
    chosen = remote(server, files, "echo-two", outputComponent="ChatOutput-two")
    assert await answer(chosen, request()) == "hi"
    for flow in (
        remote(server, files, "data-terminal"),
        remote(server, files, "echo", outputComponent="ChatOutput-zzz"),
    ):
        error = await refused(flow)
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")


async def test_a_wrong_key(server: LangflowServer, files: Files) -> None:
    error = await refused(remote(server, files, "echo", key="wrong"))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowUnauthorized")
    assert "Invalid or missing API key" in str(error)
    assert "sk-" not in str(error)


@pytest.mark.parametrize("identity", ["no-such-flow", "00000000-0000-4000-8000-000000000000"])
async def test_an_unknown_flow(server: LangflowServer, files: Files, identity: str) -> None:
    error = await refused(remote(server, files, identity))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowNotFound")
    assert identity in str(error)


async def test_a_wrong_path(server: LangflowServer, files: Files) -> None:
    error = await refused(remote(server, files, "echo", url=f"{server.url}/langflow"))
    assert error.failure is Failure.CONFIGURATION
    assert "check spec.flow.url" in str(error)


async def test_a_component_that_raises(server: LangflowServer, files: Files) -> None:
    error = await refused(remote(server, files, "raises"))
    assert (error.failure, error.reason, error.status) == (Failure.TRANSIENT, "FlowFailing", 500)
    assert str(error) == (
        "Langflow answered 500: Error running graph: Error building Component Boom:"
        " boom on purpose: hi"
    )
    limited = request(tweaks={"Boom-x": {"says": "Error code: 429 - rate limited"}})
    assert (await refused(remote(server, files, "raises"), limited)).failure is Failure.THROTTLE
    missing = request(tweaks={"Boom-x": {"says": "customer not found"}})
    assert (await refused(remote(server, files, "raises"), missing)).failure is Failure.TRANSIENT


async def test_refused_tweaks(server: LangflowServer, files: Files) -> None:
    error = await refused(
        remote(server, files, "prompt"), request(tweaks={"Prompt-p": {"code": "print(1)"}})
    )
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    error = await refused(
        remote(server, files, "echo", inputType="chat"),
        request(tweaks={"ChatInput-in": {"input_value": "zz"}}),
    )
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")


async def test_a_timeout(server: LangflowServer, files: Files) -> None:
    slow = request(tweaks={"Sleeper-x": {"seconds": 20.0}})
    error = await refused(remote(server, files, "sleeps", timeoutSeconds=2), slow)
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")


@pytest.mark.parametrize(
    ("name", "tweaks", "fields"),
    [
        ("echo", {}, {}),
        ("prompt", {"Prompt-p": {"name": "Alice"}}, {}),
        ("data-chat", {}, {}),
        ("data-terminal", {}, {"outputComponent": "MakeData-x"}),
        ("frame-chat", {}, {}),
        ("whoami", {}, {}),
        ("echo-two", {}, {"outputComponent": "ChatOutput-two"}),
    ],
)
async def test_the_server_and_the_worker_give_the_same_answer(
    server: LangflowServer,
    files: Files,
    name: str,
    tweaks: dict[str, Any],
    fields: dict[str, Any],
) -> None:
    asked = request("hi\nthere", tweaks=tweaks)
    there = await answer(remote(server, files, name, **fields), asked)
    assert there == await answer(local(name, **fields), asked)


async def test_the_server_and_the_worker_fail_alike(server: LangflowServer, files: Files) -> None:
    there, here = await refused(remote(server, files, "raises")), await refused(local("raises"))
    assert (there.failure, there.reason) == (here.failure, here.reason)
    assert str(there) == f"Langflow answered 500: {here}"


def local(name: str, **fields: Any) -> LocalFlow:
    flow = {"backend": "Local", "file": {"path": str(FLOWS / f"{name}.json")}, **fields}
    return LocalFlow(Flow.model_validate(flow), Files(), slots=8)
