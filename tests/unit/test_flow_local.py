"""Local flows, with processes that answer as told; real ones are in the tests beside this."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows import local
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.flows.processes.child import Fault
from flowbinding_worker.flows.processes.fork import EngineMissingError
from flowbinding_worker.flows.processes.handle import (
    Document,
    LoadError,
    ProcessEndedError,
    RunError,
)
from flowbinding_worker.flows.processes.pool import Settings
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError

REQUEST = FlowRequest("in-0-7", "hello", "s-1", {"A": {"b": 1}})


@dataclass
class StandIn:
    """A pool that answers `<name of the document>: <input>`, or fails as told."""

    settings: Settings | None = None
    missing: EngineMissingError | None = None
    fails: Exception | None = None
    silent: bool = False
    loaded: list[Document] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, settings: Settings, forks: Any) -> StandIn:
        self.settings = settings
        return self

    async def start(self) -> None:
        if self.missing is not None:
            raise self.missing

    async def load(self, document: Document) -> None:
        await self.start()
        if "bad" in document.data["data"]:
            raise LoadError(Fault.UNFIT, "'nodes'")
        if document not in self.loaded:
            self.loaded.append(document)

    async def run(
        self, document: Document, key: str, asked: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        await self.load(document)
        self.asked.append({"key": key, **asked})
        if "refused" in asked["tweaks"]:
            raise RunError(Fault.UNFIT, "Refused tweak keys ['code']: protected")
        if "protected" in asked["tweaks"]:
            raise RunError(Fault.PROTECTED, "protected")
        if self.fails is not None:
            raise self.fails
        if self.silent:
            return {"outputs": []}
        text = f"{document.data['data']['name']}: {asked['run']['input_value']}"
        return {"outputs": [{"outputs": [{"component_id": "C", "results": {"m": {"text": text}}}]}]}

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(local, "Pool", stand_in)
    return stand_in


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config-maps" / "flows" / "risk.json"
    path.parent.mkdir(parents=True)
    write(path, name="one")
    return path


def write(path: Path, **data: Any) -> None:
    path.write_text(json.dumps({"data": data}))


def make(path: Path, **fields: Any) -> LocalFlow:
    file = {"configMapKeyRef": {"name": "flows", "key": "risk.json"}}
    flow = Flow.model_validate({"backend": "Local", "file": file, **fields})
    return LocalFlow(flow, Files(path.parents[1], path.parents[1], path.parent), slots=2)


async def refused(flow: LocalFlow) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(REQUEST)
    return raised.value


async def test_a_changed_file_is_the_flow_of_the_next_run(path: Path) -> None:
    flow = make(path)
    await flow.start()
    assert (await flow.run(REQUEST)).value == "one: hello"
    write(path, name="two")
    assert (await flow.run(REQUEST)).value == "two: hello"
    await flow.close()


async def test_an_unchanged_file_is_loaded_once(path: Path, engine: StandIn) -> None:
    flow = make(path)
    await flow.start()
    await flow.run(REQUEST)
    await flow.run(REQUEST)
    assert len(engine.loaded) == 1
    assert engine.asked[0] == {
        "key": "in-0-7",
        "tweaks": {"A": {"b": 1}},
        "variables": {},
        "run": {
            "input_value": "hello",
            "session_id": "s-1",
            "input_type": "any",
            "output_type": "any",
            "output_component": None,
        },
    }


async def test_global_variables_go_with_each_run(path: Path, engine: StandIn) -> None:
    (path.parent / "key").write_text("sesame\n")
    ref = {"name": "flows", "key": "key"}
    flow = make(path, globalVariables={"KEY": {"secretKeyRef": ref}, "MODEL": {"value": "m"}})
    await flow.start()
    await flow.run(REQUEST)
    assert engine.asked[0]["variables"] == {"KEY": "sesame", "MODEL": "m"}
    (path.parent / "key").unlink()
    assert (await refused(flow)).reason == "SecretMissing"


@pytest.mark.parametrize(
    ("options", "slots", "wanted"),
    [
        ({}, 10, (2, 14, 10_000, 256 * 1024**2)),
        ({}, 1, (1, 5, 10_000, 256 * 1024**2)),
        ({"processes": 8}, 10, (8, 14, 10_000, 256 * 1024**2)),
        ({"processes": 8}, 3, (3, 7, 10_000, 256 * 1024**2)),
        ({"maxRunsPerProcess": 1, "maxMemoryGrowth": "0"}, 1, (1, 5, 1, 0)),
        ({"maxMemory": "1Gi"}, 1, (1, 5, 10_000, 256 * 1024**2, 1024**3)),
    ],
)
async def test_how_many_processes(
    path: Path,
    engine: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    slots: int,
    wanted: tuple[int, ...],
) -> None:
    monkeypatch.setattr(local, "_cpus", lambda: 16)
    spec = {"backend": "Local", "file": {"path": str(path)}, "local": options}
    LocalFlow(Flow.model_validate(spec), Files(), slots=slots)
    assert engine.settings == Settings(*wanted)


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        ("{", "FlowFileInvalid", "is not JSON"),
        ("[" * 100_000, "FlowFileInvalid", "is not JSON"),
        ("[]", "FlowFileInvalid", "has no object `data`"),
        ('{"nodes": []}', "FlowFileInvalid", "has no object `data`"),
        ('{"data": {"bad": 1}}', "FlowFileInvalid", "is no flow that lfx can build"),
        (None, "ConfigMapMissing", "spec.flow.file.configMapKeyRef: ConfigMap flows"),
    ],
)
async def test_a_broken_file_heals_without_a_restart(
    path: Path, content: str | None, reason: str, says: str
) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)
    flow = make(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    for error in (raised.value, await refused(flow)):
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, reason)
        assert says in str(error)
        assert "risk.json" in str(error)
    write(path, name="repaired")
    assert (await flow.run(REQUEST)).value == "repaired: hello"


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ({"path": "{path}"}, "{path} (spec.flow.file.path)"),
        (
            {"persistentVolumeClaim": {"claimName": "models", "path": "risk.json"}},
            "risk.json of PersistentVolumeClaim models (spec.flow.file.persistentVolumeClaim)",
        ),
    ],
)
async def test_a_file_elsewhere(path: Path, file: dict[str, Any], place: str) -> None:
    if "path" in file:
        file = {"path": str(path)}
    flow = make(path, file=file)
    await flow.start()
    assert (await flow.run(REQUEST)).value == "one: hello"
    path.unlink()
    error = await refused(flow)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowFileInvalid")
    wanted = (
        f"the flow {place.format(path=path)} cannot be read: No such file or directory ({path})"
    )
    assert wanted in str(error)


async def test_refused_tweaks_are_a_matter_of_the_binding(path: Path) -> None:
    flow = make(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(FlowRequest("r", "x", "s", {"refused": 1}))
    assert (raised.value.failure, raised.value.reason) == (
        Failure.CONFIGURATION,
        "FlowMisconfigured",
    )
    assert "spec.flow.tweaks" in str(raised.value)


async def test_an_engine_that_is_not_installed(path: Path, engine: StandIn) -> None:
    engine.missing = EngineMissingError("No module named 'lfx'")
    flow = make(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    for error in (raised.value, await refused(flow)):
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, "EngineMissing")
        assert "No module named 'lfx'" in str(error)
        assert "flowbinding[local]" in str(error)
    engine.missing = None
    await flow.start()
    assert (await flow.run(REQUEST)).value == "one: hello"


async def test_echo_instead_of_an_engine(path: Path, engine: StandIn) -> None:
    noted: list[tuple[str, str]] = []
    engine.missing = EngineMissingError("No module named 'lfx'")
    file = {"path": str(path)}
    spec = {"backend": "Local", "file": file, "onMissingEngine": "Echo"}
    flow = LocalFlow(
        Flow.model_validate(spec), Files(), slots=1, note=lambda *told: noted.append(told)
    )
    await flow.start()
    assert (await flow.run(REQUEST)).value == "hello"
    assert (await flow.run(REQUEST)).value == "hello"
    (reason, message) = noted[0]
    assert reason == "EchoInstead"
    assert "No module named 'lfx'" in message
    assert "spec.flow.onMissingEngine" in message
    assert len(noted) == 1


async def test_an_engine_that_is_there_is_used(path: Path) -> None:
    flow = make(path, onMissingEngine="Echo")
    await flow.start()
    assert (await flow.run(REQUEST)).value == "one: hello"


@pytest.mark.parametrize(
    ("fault", "failure", "reason", "says", "unknown"),
    [
        (
            RunError(Fault.RAISED, "Error running graph: inner"),
            Failure.TRANSIENT,
            "FlowFailing",
            "Error running graph: inner",
            False,
        ),
        (
            RunError(Fault.RAISED, "Error code: 429 - rate limited"),
            Failure.THROTTLE,
            "FlowThrottled",
            "429",
            False,
        ),
        (
            RunError(Fault.TIMEOUT, ""),
            Failure.TRANSIENT,
            "FlowTimeout",
            "longer than spec.flow.timeoutSeconds (60 s) and was stopped; outcome unknown",
            True,
        ),
        (
            RunError(Fault.MEMORY, "Unable to allocate 8 GiB", stuck=True),
            Failure.TRANSIENT,
            "FlowFailing",
            "a component asked for more memory than spec.flow.local.maxMemory (2Gi) leaves:"
            " Unable to allocate 8 GiB",
            False,
        ),
        (
            ProcessEndedError("the process that ran the flow was killed by SIGSEGV"),
            Failure.TRANSIENT,
            "FlowFailing",
            "the process that ran the flow was killed by SIGSEGV; outcome unknown",
            True,
        ),
        (
            RunError(Fault.MISSING, "No module named 'lfx_openai'", ("lfx-openai", "openai")),
            Failure.CONFIGURATION,
            "EngineMissing",
            "No module named 'lfx_openai'; use a worker image with it"
            " (pip install lfx-openai openai)",
            False,
        ),
        (
            RunError(Fault.MISSING, "No module named 'x'"),
            Failure.CONFIGURATION,
            "EngineMissing",
            "No module named 'x'; use a worker image with it (install the package that has it)",
            False,
        ),
        (
            LoadError(Fault.MISSING, "No module named 'x'", ("x",)),
            Failure.CONFIGURATION,
            "EngineMissing",
            "(pip install x)",
            False,
        ),
        (
            RunError(Fault.CODE, "invalid syntax"),
            Failure.CONFIGURATION,
            "FlowFileInvalid",
            "code does not compile: invalid syntax",
            False,
        ),
    ],
)
async def test_failing_runs(
    path: Path,
    engine: StandIn,
    fault: Exception,
    failure: Failure,
    reason: str,
    says: str,
    unknown: bool,
) -> None:
    engine.fails = fault
    error = await refused(make(path, local={"maxMemory": "2Gi"}))
    assert (error.failure, error.reason) == (failure, reason)
    assert says in str(error)
    assert error.outcome_unknown is unknown
    assert error.timed_out is (reason == "FlowTimeout")


async def test_a_run_without_a_limit_that_finds_no_memory(path: Path, engine: StandIn) -> None:
    engine.fails = RunError(Fault.MEMORY, "Unable to allocate 8 PiB", stuck=True)
    error = await refused(make(path))
    assert str(error).startswith("a component asked for more memory than there is: Unable to")


@pytest.mark.parametrize(
    ("written", "proven", "tweaks", "failure"),
    [
        ({"A": {"b": 1}}, False, {"refused": 1}, Failure.CONFIGURATION),
        ({"A": {"b": 1}}, True, {"refused": 1}, Failure.POISON),
        ({"A": {"b": "{{ value.b }}"}}, False, {"refused": 1}, Failure.POISON),
        ({"A": [{"b": "{% if key %}x{% endif %}"}]}, False, {"refused": 1}, Failure.POISON),
        ({"A": {"b": "{{ value.b }}"}}, False, {"protected": 1}, Failure.CONFIGURATION),
        ({"A": {"b": "{{ value.b }}"}}, True, {"protected": 1}, Failure.CONFIGURATION),
    ],
)
async def test_tweaks_that_a_message_made_unfit_are_its_problem(
    path: Path, written: dict[str, Any], proven: bool, tweaks: dict[str, Any], failure: Failure
) -> None:
    flow = make(path, tweaks=written)
    await flow.start()
    if proven:
        await flow.run(REQUEST)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(FlowRequest("r", "x", "s", tweaks))
    assert raised.value.failure is failure
    assert "spec.flow.tweaks" in str(raised.value)


async def test_a_message_without_an_answer(path: Path, engine: StandIn) -> None:
    flow = make(path)
    engine.silent = True
    assert (await refused(flow)).failure is Failure.CONFIGURATION
    engine.silent = False
    await flow.run(REQUEST)
    engine.silent = True
    error = await refused(flow)
    assert (error.failure, error.reason) == (Failure.POISON, "NoAnswer")
    write(path, name="another")
    assert (await refused(flow)).failure is Failure.CONFIGURATION, "nothing is known of this flow"
