"""Local flows with the real lfx."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.local import ENGINE, LocalFlow
from flowbinding_worker.flows.processes.fork import Forks
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError

FLOWS = Path(__file__).parent / "langflow" / "flows"

# One process imports lfx for all: the event loop that it belongs to lives as long.
pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

_forks = Forks(ENGINE)


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def forks() -> AsyncIterator[None]:
    await _forks.start()
    yield
    await _forks.close()
    # What is left are the last words of its processes.
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def local(name: str, folder: Path = FLOWS, **fields: Any) -> LocalFlow:
    file = {"path": str(folder / f"{name}.json")}
    flow = Flow.model_validate({"backend": "Local", "file": file, **fields})
    return LocalFlow(flow, Files(), slots=8, forks=_forks)


def changed(folder: Path, name: str, words: dict[str, str], **fields: Any) -> LocalFlow:
    """A flow with other words in the code of its own component."""
    document = json.loads((FLOWS / f"{name}.json").read_text())
    for node in document["data"]["nodes"]:
        if not node["id"].startswith("Chat"):
            code = node["data"]["node"]["template"]["code"]
            for before, after in words.items():
                assert before in code["value"]
                code["value"] = code["value"].replace(before, after)
    (folder / "flow.json").write_text(json.dumps(document))
    return local("flow", folder, **fields)


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
    assert "(pip install flowbinding-no-such-package)" in str(error)
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
    error = await refused(changed(tmp_path, "raises", {"class Boom": "class ("}))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowFileInvalid")
    assert "invalid syntax" in str(error)


async def test_a_component_that_blocks_its_thread(tmp_path: Path) -> None:
    words = {"async def run_it": "def run_it", "await asyncio.sleep": "__import__('time').sleep"}
    hasty = changed(tmp_path, "sleeps", words, timeoutSeconds=1)
    error = await refused(hasty, request(tweaks={"Sleeper-x": {"seconds": 600.0}}))
    assert (error.reason, error.outcome_unknown) == ("FlowTimeout", True)
    assert (await local("flow", tmp_path).run(request())).value == "slept:hi"


async def test_a_component_that_ends_its_process(tmp_path: Path) -> None:
    words = {"await asyncio": "__import__('os')._exit(3); await asyncio"}
    error = await refused(changed(tmp_path, "sleeps", words))
    assert (error.reason, error.outcome_unknown) == ("FlowFailing", True)
    assert "the process that ran the flow ended with exit code 3" in str(error)


async def test_global_variables_are_those_of_the_run() -> None:
    values = {"THE_CITY": {"value": "Bonn"}, "TOKEN": {"value": "t"}}
    given = local("variables", globalVariables=values)
    other = local("variables", globalVariables={**values, "THE_CITY": {"value": "Rome"}})
    found = await asyncio.gather(*(flow.run(request()) for flow in (given, other) * 4))
    assert [result.value for result in found] == ["Bonn, t: hi", "Rome, t: hi"] * 4


SCRIPT = """
import asyncio, sys
from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.ports import FlowRequest
flow = LocalFlow(Flow.model_validate({"backend": "Local", "file": {"path": sys.argv[1]}}),
                 Files(), slots=1)
async def main():
    await flow.start()
    assert (await flow.run(FlowRequest("r", "hi", "s"))).value == "hi"
    await flow.close()
asyncio.run(main())
"""
SPY = """
import os, socket
def connect(self, address):
    with open(os.environ["SPY"], "a") as file:
        file.write(repr(address))
socket.socket.connect = connect
"""


async def test_a_worker_is_quiet_and_talks_to_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    """In a home that cannot be written."""
    home, spy = tmp_path / "home", tmp_path / "spy"
    home.mkdir(mode=0o500)
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    (tmp_path / "tmp").mkdir()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, str(FLOWS / "echo.json")],
        env={
            "HOME": str(home),
            "TMPDIR": str(tmp_path / "tmp"),
            "PYTHONPATH": str(spy),
            "SPY": str(spy / "called"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (spy / "called").exists()
    assert list(home.iterdir()) == []
    left = {path.name for path in (tmp_path / "tmp").iterdir()}
    assert left <= {"langflow_extension_events"}


async def test_lfx_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lfx.py").write_text("raise ModuleNotFoundError(\"No module named 'lfx'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = {"backend": "Local", "file": {"path": str(FLOWS / "echo.json")}}
    flow = LocalFlow(Flow.model_validate(spec), Files(), slots=1)
    with pytest.raises(ProcessingError, match="No module named 'lfx'") as raised:
        await flow.start()
    assert (raised.value.failure, raised.value.reason) == (Failure.CONFIGURATION, "EngineMissing")
    notes: list[tuple[str, str]] = []
    echoing = Flow.model_validate({**spec, "onMissingEngine": "Echo"})
    flow = LocalFlow(echoing, Files(), slots=1, note=lambda *told: notes.append(told))
    await flow.start()
    assert (await flow.run(request())).value == "hi"
    assert [reason for reason, _ in notes] == ["EchoInstead"]
    await flow.close()
