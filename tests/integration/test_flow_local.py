"""Local flows with the real lfx."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError

FLOWS = Path(__file__).parent / "langflow" / "flows"
ROOT = Path(__file__).parents[2]

# lfx compiles a flow's components for each run, with Pydantic as it was before 2.12.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince212"),
]


def local(name: str, folder: Path = FLOWS, **fields: Any) -> LocalFlow:
    file = {"path": str(folder / f"{name}.json")}
    return LocalFlow(
        Flow.model_validate({"backend": "Local", "file": file, **fields}), Files(), slots=8
    )


def request(
    text: str = "hi", session: str = "s-1", tweaks: dict[str, Any] | None = None
) -> FlowRequest:
    return FlowRequest("in-0-7", text, session, tweaks or {})


async def refused(flow: LocalFlow, asked: FlowRequest | None = None) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(asked or request())
    return raised.value


async def test_echo() -> None:
    flow = local("echo")
    await flow.start()
    result = await flow.run(request("a\nb"))
    assert result.value == "a\nb"
    assert result.run_id is not None
    assert (await flow.run(request(""))).value == ""
    await flow.close()


async def test_tweaks() -> None:
    flow = local("prompt")
    tweaks = {"Prompt-p": {"name": "Alice"}}
    assert (await flow.run(request(tweaks=tweaks))).value == "Hello Alice: hi"
    assert (await flow.run(request())).value == "Hello nobody: hi"
    assert tweaks == {"Prompt-p": {"name": "Alice"}}


async def test_runs_at_once_are_not_mixed() -> None:
    flow = local("whoami")
    results = await asyncio.gather(
        *(flow.run(request(f"text-{n}", f"session-{n}")) for n in range(20))
    )
    assert [result.value for result in results] == [f"session-{n}|text-{n}" for n in range(20)]
    assert len({result.run_id for result in results}) == 20


async def test_coroutines_overlap() -> None:
    flow = local("sleeps")
    await flow.run(request())
    loop = asyncio.get_running_loop()
    start = loop.time()
    slow = {"Sleeper-x": {"seconds": 1.0}}
    results = await asyncio.gather(*(flow.run(request(str(n), tweaks=slow)) for n in range(8)))
    assert [result.value for result in results] == [f"slept:{n}" for n in range(8)]
    assert loop.time() - start < 5


async def test_data() -> None:
    wanted = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}
    assert as_data((await local("data-chat").run(request())).value) == wanted
    chosen = local("data-terminal", outputComponent="MakeData-x")
    assert (await chosen.run(request())).value == wanted
    assert (await local("frame-chat").run(request())).value.startswith("| text")


async def test_outputs() -> None:
    error = await refused(local("echo-two"))
    assert error.failure is Failure.CONFIGURATION
    assert "ChatOutput-out" in str(error)
    assert "ChatOutput-two" in str(error)
    chosen = local("echo-two", outputComponent="ChatOutput-two")
    assert (await chosen.run(request())).value == "hi"
    error = await refused(local("data-terminal"))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")


async def test_a_component_that_raises() -> None:
    error = await refused(local("raises"))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowFailing")
    assert str(error) == ("Error running graph: Error building Component Boom: boom on purpose: hi")
    limited = {"Boom-x": {"says": "Error code: 429 - rate limited"}}
    assert (await refused(local("raises"), request(tweaks=limited))).failure is Failure.THROTTLE


async def test_a_package_that_is_missing() -> None:
    error = await refused(local("needs-package"))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "EngineMissing")
    assert "flowbinding_no_such_package" in str(error)
    assert "needs-package.json" in str(error)


async def test_a_protected_tweak() -> None:
    error = await refused(local("prompt"), request(tweaks={"Prompt-p": {"code": "print(1)"}}))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert "spec.flow.tweaks" in str(error)
    assert "code" in str(error)


async def test_a_timeout() -> None:
    flow = local("sleeps", timeoutSeconds=1)
    await flow.start()
    error = await refused(flow, request(tweaks={"Sleeper-x": {"seconds": 60.0}}))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")


async def test_a_broken_file_then_repaired(tmp_path: Path) -> None:
    good = (FLOWS / "echo.json").read_text()
    document = json.loads(good)
    del document["data"]["nodes"][0]["data"]["node"]["template"]
    broken = {
        "half": good[: len(good) // 2],
        "no data": json.dumps({"nodes": []}),
        "no nodes": json.dumps({"data": {}}),
        "no template": json.dumps(document),
    }
    path = tmp_path / "flow.json"
    flow = local("flow", tmp_path)
    for content in broken.values():
        path.write_text(content)
        error = await refused(flow)
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowFileInvalid")
        assert str(path) in str(error)
        path.write_text(good)
        assert (await flow.run(request())).value == "hi"


async def test_component_code_that_does_not_compile(tmp_path: Path) -> None:
    document = json.loads((FLOWS / "raises.json").read_text())
    for node in document["data"]["nodes"]:
        if node["id"] == "Boom-x":
            node["data"]["node"]["template"]["code"]["value"] = "def (:"
    (tmp_path / "flow.json").write_text(json.dumps(document))
    error = await refused(local("flow", tmp_path))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowFileInvalid")


async def test_the_workers_own_logs_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    await local("echo").run(request())
    structlog.get_logger().warning("still here")
    assert "still here" in capsys.readouterr().out


async def test_nothing_leaves_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    await local("echo").run(request())
    await refused(local("raises"))
    assert called == []


def test_a_process_of_its_own_is_quiet_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a home that cannot be written, without any output, and with structlog as it was."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    (tmp_path / "tmp").mkdir()
    script = """
import asyncio, sys, structlog
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.ports import FlowRequest
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
before = structlog.get_config()
flow = LocalFlow(Flow.model_validate({"backend": "Local", "file": {"path": sys.argv[1]}}),
                 Files(), slots=1)
async def main():
    await flow.start()
    assert (await flow.run(FlowRequest("r", "hi", "s"))).value == "hi"
    await flow.close()
asyncio.run(main())
assert structlog.get_config() == before
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(FLOWS / "echo.json")],
        env={"HOME": str(home), "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
    left = {path.name for path in (tmp_path / "tmp").iterdir()}
    assert left <= {"langflow_extension_events"}


async def test_threads_for_blocking_components() -> None:
    flow = local("raises")
    await flow.start()
    gate = threading.Barrier(8)
    # Eight at once, although this machine's default pool may be smaller.
    await asyncio.gather(*(asyncio.to_thread(gate.wait, 10) for _ in range(8)))
