"""A real Langflow server, a real `lfx serve`, and the same flows with lfx in the worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowbinding_api import parse_binding
from flowbinding_api.flow import Flow
from flowbinding_operator.probe import Prober, target_of
from flowbinding_worker import ports
from flowbinding_worker.files import Files
from flowbinding_worker.flows.langflow import LangflowFlow
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError
from integration.langflow import examples
from integration.langflow.server import LangflowServer, running, serving
from integration.langflow_ways import SPEC, able, outcome, specs
from integration.worker_process import EXECUTABLE, WorkerProcess
from kafkaio import TopicFactory, produce, read_until
from testbed import KafkaBroker

FLOWS = Path(__file__).parent / "langflow" / "flows"
DATA = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}

pytestmark = [
    # The first run installs 1.3 GB; each start of the server takes half a minute.
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince212"),
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LangflowServer]:
    files = {path.stem: path for path in sorted(FLOWS.glob("*.json"))}
    with running(files | examples.flow_files(tmp_path_factory.mktemp("flows"))) as server:
        yield server


@pytest.fixture(scope="session")
def served() -> Iterator[LangflowServer]:
    names = (path for path in sorted(FLOWS.glob("*.json")) if path.stem != "needs-package")
    with serving({path.stem: path for path in names}) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path, server: LangflowServer, served: LangflowServer) -> Files:
    keys = {"good": server.api_key, "served": served.api_key, "wrong": "sk-wrong", "token": "t0k3n"}
    (tmp_path / "langflow").mkdir()
    for key, content in keys.items():
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
    return LangflowFlow(Flow.model_validate({**flow, **fields}), files)


def request(
    text: str = "hi", session: str = "s-1", tweaks: dict[str, Any] | None = None
) -> FlowRequest:
    return FlowRequest("in-0-7", text, session, tweaks or {})


async def answer(flow: ports.Flow, asked: FlowRequest) -> Any:
    try:
        await flow.start()
        return (await flow.run(asked)).value
    finally:
        await flow.close()


async def refused(flow: ports.Flow, asked: FlowRequest | None = None) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await answer(flow, asked or request())
    return raised.value


async def test_a_session_reaches_the_flow(server: LangflowServer, files: Files) -> None:
    flow = remote(server, files, "whoami")
    results = await asyncio.gather(*(flow.run(request(f"t-{n}", f"s-{n}")) for n in range(20)))
    await flow.close()
    assert [result.value for result in results] == [f"s-{n}|t-{n}" for n in range(20)]
    assert len({result.run_id for result in results}) == 20


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


TABLE = """\
| text         |   n |
|:-------------|----:|
| hi<br/>there |   1 |
| row2         |   2 |"""


@pytest.mark.parametrize(
    ("fields", "cases"),
    [
        (
            {},
            [
                ("echo", {}, "hi\nthere"),
                ("whoami", {}, "key-1|hi\nthere"),
                ("prompt", {}, "Hello nobody: hi\nthere"),
                ("prompt", {"Prompt-p": {"name": "{{ key }}"}}, "Hello key-1: hi\nthere"),
                ("variables", {}, "Bonn, t0k3n: hi\nthere"),
                ("data-chat", {}, {**DATA, "text": "data:hi\nthere"}),
                ("frame-chat", {}, TABLE),
                ("raises", {}, (Failure.TRANSIENT, "FlowFailing")),
            ],
        ),
        ({"outputComponent": "ChatOutput-two"}, [("echo-two", {}, "hi\nthere")]),
        (
            {"outputComponent": "MakeData-x"},
            [("data-terminal", {}, {**DATA, "text": "data:hi\nthere"})],
        ),
    ],
    ids=["plain", "one-of-two", "data"],
)
async def test_every_way_gives_the_same_record(
    server: LangflowServer,
    served: LangflowServer,
    files: Files,
    tmp_path: Path,
    fields: dict[str, Any],
    cases: list[tuple[str, dict[str, Any], Any]],
) -> None:
    path = tmp_path / "flow.json"
    local = {"backend": "Local", "file": {"path": str(path)}, **SPEC, **fields}
    runner = LocalFlow(Flow.model_validate(local), files, slots=1)
    try:
        for name, tweaks, expected in cases:
            path.write_text((FLOWS / f"{name}.json").read_text())
            own = {**fields, **({"tweaks": tweaks} if tweaks else {})}
            found = {"Local": await outcome({**local, **own}, files, runner)}
            for way, spec in specs(server, served, name).items():
                if able(way, own):
                    found[way] = await outcome({**spec, **SPEC, **own}, files)
            first = found["Local"]
            assert {way: one for way, one in found.items() if one != first} == {}, name
            assert first == expected or first[1]["result"] == expected, name
    finally:
        await runner.close()


async def test_several_outputs_have_to_be_chosen_from(
    server: LangflowServer, served: LangflowServer, files: Files
) -> None:
    ways = specs(server, served, "echo-two")
    for way in ("Run", "Workflows", "Workflows of lfx serve"):
        flow = LangflowFlow(Flow.model_validate(ways[way]), files)
        error = await refused(flow)
        assert error.failure is Failure.CONFIGURATION
        assert "ChatOutput-out (Chat Output), ChatOutput-two (Chat Output)" in str(error), way
    wrong = Flow.model_validate({**ways["Workflows"], "outputComponent": "ChatOutput-zzz"})
    error = await refused(LangflowFlow(wrong, files))
    assert error.failure is Failure.CONFIGURATION
    # A set on its side.
    assert "set spec.flow.outputComponent to one of ChatOutput-" in str(error)


async def test_what_the_other_apis_refuse(
    server: LangflowServer, served: LangflowServer, files: Files
) -> None:
    async def error(way: str, request: FlowRequest, **fields: Any) -> tuple[str, str]:
        spec = {**specs(server, served, fields.pop("flow", "echo"))[way], **fields}
        found = await refused(LangflowFlow(Flow.model_validate(spec), files), request)
        return found.reason, str(found)

    wrong = {"apiKeySecretRef": {"name": "langflow", "key": "wrong"}}
    nobody = {"id": "00000000-0000-4000-8000-000000000000"}
    tweaked = request(tweaks={"Prompt-p": {"code": "print(1)"}})
    for way in ("Workflows", "Serve", "Workflows of lfx serve"):
        reason, text = await error(way, request(), **wrong)
        assert reason == "FlowUnauthorized"
        assert "check spec.flow.apiKeySecretRef" in text
        reason, text = await error(way, request(), **nobody)
        assert reason == "FlowNotFound"
        assert text.endswith("check spec.flow.id")
    for way, asked, flow, hint in (
        ("Workflows", tweaked, "prompt", "check spec.flow.tweaks"),
        ("Workflows of lfx serve", tweaked, "prompt", "remove spec.flow.tweaks"),
        ("Workflows", request(), "data-terminal", "connect a Chat Output, or use Run"),
        ("Serve", request(), "data-terminal", "give the flow a Chat Output"),
    ):
        reason, text = await error(way, asked, flow=flow)
        assert reason == "FlowMisconfigured"
        assert hint in text


async def test_the_operator_finds_out_what_is_there(
    server: LangflowServer, served: LangflowServer, files: Files
) -> None:
    prober = Prober(lambda _: None, seconds=60)
    ways = specs(server, served, "echo")
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "there": (ways["Run"], "True: Langflow 1.13.0 has the flow"),
        "served": (ways["Serve"], "True: lfx serve has the flow"),
        "named": (ways["Run by name"], "True: Langflow 1.13.0 answers; whether it has the flow is"),
        "nobody": (
            {**ways["Run"], "id": "00000000-0000-4000-8000-000000000000"},
            "False: the flow server has no flow",
        ),
        "nobody-served": (
            {**ways["Serve"], "id": "00000000-0000-4000-8000-000000000000"},
            "False: the flow server has no flow",
        ),
        "wrong": (
            {**ways["Run"], "apiKeySecretRef": {"name": "langflow", "key": "wrong"}},
            "False: the flow server answers 403",
        ),
    }
    secret = {path.name: path.read_text() for path in (files.secrets / "langflow").iterdir()}
    for name, (flow, _) in cases.items():
        manifest = {
            "apiVersion": "flowbinding.io/v1alpha1",
            "kind": "FlowBinding",
            "metadata": {"name": name},
            "spec": {"source": {"topic": "in"}, "flow": flow},
        }
        objects = {("Secret", "langflow"): {"kind": "ConfigMap", "data": secret}}
        prober.watch(name, target_of(parse_binding(manifest), objects))  # type: ignore[arg-type]
    await prober.ask()
    for name, (_, expected) in cases.items():
        found = prober.result(name)
        assert found is not None
        assert f"{found.status}: {found.message}".startswith(expected)


@pytest.fixture
def example_key(tmp_path: Path, server: LangflowServer) -> Path:
    """A worker's secrets, with the key as the examples name it."""
    (tmp_path / "secrets" / "langflow").mkdir(parents=True)
    (tmp_path / "secrets" / "langflow" / "api-key").write_text(server.api_key)
    return tmp_path / "secrets"


async def test_the_examples_with_a_server(
    server: LangflowServer,
    kafka: KafkaBroker,
    topic: TopicFactory,
    tmp_path: Path,
    example_key: Path,
) -> None:
    found = examples.manifests()
    assert found.keys() == {"consumer", "schedule"}

    source, output = await topic(), await topic(1)
    spec = {"source": {"topic": source, "consumerGroup": "consumer"}, "output": {"topic": output}}
    document = examples.pointed_at(found["consumer"], server, kafka.bootstrap, **spec)
    messages = (examples.EXAMPLES / "consumer" / "messages.txt").read_bytes().splitlines()
    await produce(kafka.bootstrap, source, [(None, message) for message in messages])
    async with WorkerProcess(tmp_path, document) as worker:
        written = await read_until(kafka.bootstrap, output, len(messages))
        assert await worker.terminate() == 0
    assert {json.loads(record.value)["result"] for record in written} == {
        "Answer in one sentence.\n\nQuestion: How do I reset my password?",
        "Answer in three words.\n\nQuestion: Where is my order?",
        "Answer in one sentence.\n\nQuestion: Plain text is a message, too.",
    }

    nightly = await topic(1)
    spec = {"output": {"topic": nightly}}
    document = examples.pointed_at(found["schedule"], server, kafka.bootstrap, **spec)
    done = await asyncio.to_thread(
        subprocess.run,
        [str(EXECUTABLE), "run", "--once", "--file", "-"],
        input=yaml.safe_dump(document),
        env={"PATH": "/usr/bin", "FLOWBINDING_SECRETS": str(example_key)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [record] = await read_until(kafka.bootstrap, nightly, 1)
    answer = json.loads(record.value)
    assert answer["result"] == "Answer in five lines.\n\nQuestion: Write the daily digest"
    assert answer["sessionId"].startswith("digest-")
