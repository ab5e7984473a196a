"""Local flows, with an engine of the test's own; the real one runs in the integration tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows import lfx_engine
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError

REQUEST = FlowRequest("in-0-7", "hello", "s-1", {"A": {"b": 1}})


class TweakRefusedError(ValueError):
    """As lfx's TweakRefusedError."""


@dataclass
class StandIn:
    """An engine that answers `<name of the document>: <input>`, or does what `fails` says."""

    built: list[Mapping[str, Any]] = field(default_factory=list)
    fails: BaseException | None = None
    hangs: bool = False
    silent: bool = False
    tweak_refused: type[Exception] = TweakRefusedError

    def build(self, document: dict[str, Any], tweaks: Mapping[str, Any]) -> Any:
        if "bad" in document["data"]:
            raise KeyError("nodes")
        if "protected" in tweaks:
            raise TweakRefusedError("protected")
        if "refused" in tweaks:
            raise ValueError("Refused tweak keys ['code']: protected")
        self.built.append(tweaks)
        return document["data"]["name"]

    async def run(self, graph: Any, request: FlowRequest, **settings: Any) -> dict[str, Any]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise ValueError("Error running graph: inner") from self.fails
        if self.silent:
            return {"outputs": []}
        text = f"{graph}: {request.input}"
        return {"outputs": [{"outputs": [{"component_id": "C", "results": {"m": {"text": text}}}]}]}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(lfx_engine, "load", lambda: stand_in)
    return stand_in


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config-maps" / "flows" / "risk.json"
    path.parent.mkdir(parents=True)
    write(path, name="one")
    return path


def write(path: Path, **data: Any) -> None:
    path.write_text(json.dumps({"data": data}))


def local(path: Path, **fields: Any) -> LocalFlow:
    file = {"configMapKeyRef": {"name": "flows", "key": "risk.json"}}
    flow = Flow.model_validate({"backend": "Local", "file": file, **fields})
    return LocalFlow(flow, Files(config_maps=path.parents[1]), slots=2)


async def refused(flow: LocalFlow) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await flow.run(REQUEST)
    return raised.value


@pytest.mark.usefixtures("engine")
async def test_a_changed_file_is_the_flow_of_the_next_run(path: Path) -> None:
    flow = local(path)
    await flow.start()
    assert (await flow.run(REQUEST)).value == "one: hello"
    write(path, name="two")
    assert (await flow.run(REQUEST)).value == "two: hello"
    await flow.close()


async def test_an_unchanged_file_is_checked_once(path: Path, engine: StandIn) -> None:
    flow = local(path)
    await flow.start()
    await flow.run(REQUEST)
    await flow.run(REQUEST)
    assert engine.built == [{}, REQUEST.tweaks, REQUEST.tweaks]


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
@pytest.mark.usefixtures("engine")
async def test_a_broken_file_heals_without_a_restart(
    path: Path, content: str | None, reason: str, says: str
) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)
    flow = local(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    for error in (raised.value, await refused(flow)):
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, reason)
        assert says in str(error)
        assert "risk.json" in str(error)
    write(path, name="repaired")
    assert (await flow.run(REQUEST)).value == "repaired: hello"


@pytest.mark.usefixtures("engine")
async def test_a_file_by_path(path: Path) -> None:
    flow = local(path, file={"path": str(path)})
    await flow.start()
    path.unlink()
    error = await refused(flow)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowFileInvalid")
    assert f"{path} (spec.flow.file.path) cannot be read" in str(error)


@pytest.mark.usefixtures("engine")
async def test_refused_tweaks_are_a_matter_of_the_binding(path: Path) -> None:
    flow = local(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(FlowRequest("r", "x", "s", {"refused": 1}))
    assert (raised.value.failure, raised.value.reason) == (
        Failure.CONFIGURATION,
        "FlowMisconfigured",
    )
    assert "spec.flow.tweaks" in str(raised.value)


async def test_an_engine_that_is_not_installed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'lfx'")

    monkeypatch.setattr(lfx_engine, "load", missing)
    flow = local(path)
    with pytest.raises(ProcessingError) as raised:
        await flow.start()
    for error in (raised.value, await refused(flow)):
        assert (error.failure, error.reason) == (Failure.CONFIGURATION, "EngineMissing")
        assert "flowbinding[local]" in str(error)


@pytest.mark.parametrize(
    ("cause", "failure", "reason", "says"),
    [
        (RuntimeError("x"), Failure.TRANSIENT, "FlowFailing", "Error running graph: inner"),
        (TimeoutError(), Failure.TRANSIENT, "FlowFailing", "Error running graph: inner"),
        (
            ModuleNotFoundError("No module named 'lfx_openai'"),
            Failure.CONFIGURATION,
            "EngineMissing",
            "No module named 'lfx_openai'",
        ),
        (SyntaxError("bad"), Failure.CONFIGURATION, "FlowFileInvalid", "does not compile: bad"),
    ],
)
async def test_failing_runs(
    path: Path, engine: StandIn, cause: BaseException, failure: Failure, reason: str, says: str
) -> None:
    engine.fails = cause
    error = await refused(local(path))
    assert (error.failure, error.reason) == (failure, reason)
    assert says in str(error)


async def test_the_timeout(path: Path, engine: StandIn) -> None:
    engine.hangs = True
    error = await refused(local(path, timeoutSeconds=0.05))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowTimeout")


@pytest.mark.parametrize(
    ("written", "proven", "tweaks", "failure"),
    [
        ({"A": {"b": 1}}, False, {"refused": 1}, Failure.CONFIGURATION),
        ({"A": {"b": 1}}, True, {"refused": 1}, Failure.POISON),
        ({"A": {"b": "{{ value.b }}"}}, False, {"refused": 1}, Failure.POISON),
        ({"A": [{"b": "{% if a %}x{% endif %}"}]}, False, {"refused": 1}, Failure.POISON),
        ({"A": {"b": "{{ value.b }}"}}, False, {"protected": 1}, Failure.CONFIGURATION),
        ({"A": {"b": "{{ value.b }}"}}, True, {"protected": 1}, Failure.CONFIGURATION),
    ],
)
@pytest.mark.usefixtures("engine")
async def test_tweaks_that_a_message_made_unfit_are_its_problem(
    path: Path, written: dict[str, Any], proven: bool, tweaks: dict[str, Any], failure: Failure
) -> None:
    flow = local(path, tweaks=written)
    await flow.start()
    if proven:
        await flow.run(REQUEST)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(FlowRequest("r", "x", "s", tweaks))
    assert raised.value.failure is failure
    assert "spec.flow.tweaks" in str(raised.value)


async def test_a_message_without_an_answer(path: Path, engine: StandIn) -> None:
    flow = local(path)
    engine.silent = True
    assert (await refused(flow)).failure is Failure.CONFIGURATION
    engine.silent = False
    await flow.run(REQUEST)
    engine.silent = True
    error = await refused(flow)
    assert (error.failure, error.reason) == (Failure.POISON, "NoAnswer")
    write(path, name="another")
    assert (await refused(flow)).failure is Failure.CONFIGURATION, "nothing is known of this flow"
