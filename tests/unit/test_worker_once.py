"""`--once`: the message of a schedule, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_fakes import FakeBroker, FakeProducer
from flowbinding_api import FlowBinding, InvalidBindingError, parse_binding
from flowbinding_worker import once
from flowbinding_worker.files import Files
from flowbinding_worker.manifest import check_once, read_manifest
from flowbinding_worker.once import (
    Once,
    RunFailedError,
    leave_last_words,
    record_of,
    run_once,
    scheduled_ms,
)
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage
from flowbinding_worker.processing import Outcome
from worker_fakes import until

DUE = 1_795_572_000_000
NULL = '{"a":null} {"a": null}'
Answer = Callable[[FlowRequest], Awaitable[Any]]


def binding(schedule: dict[str, Any] | None = None, **spec: Any) -> FlowBinding:
    source = {
        "schedule": {"cron": "0 2 * * *", "value": {"message": "good morning"}, **(schedule or {})}
    }
    base = {
        "source": source,
        "flow": {"backend": "Echo"},
        "retry": {"maxAttempts": 3, "initialBackoffSeconds": 0.001},
    }
    return parse_binding(
        {
            "apiVersion": "flowbinding.io/v1alpha1",
            "kind": "FlowBinding",
            "metadata": {"name": "nightly", "namespace": "shop"},
            "spec": {**base, **spec},
        }
    )


class ScriptedFlow:
    """Answers as it is told, one after the other; the last answer stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[FlowRequest] = []
        self.closed = False

    async def start(self) -> None:
        pass

    async def run(self, request: FlowRequest) -> FlowResult:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return FlowResult(answer)

    async def close(self) -> None:
        self.closed = True


def error(failure: Failure, reason: str = "FlowFailing") -> ProcessingError:
    return ProcessingError(
        "it does not work", failure=failure, stage=Stage.CALL, reason=reason, ran=True
    )


class Ran:
    """One run of a binding, with a broker in memory."""

    def __init__(self, made: FlowBinding, *answers: Any) -> None:
        self.broker = FakeBroker()
        self.flow = ScriptedFlow(*answers)
        self.producer = FakeProducer(self.broker)
        self.once = Once(made, self.flow, self.producer, "pod-1", Random(1))
        self.record = record_of(made, DUE)

    async def outcome(self) -> Outcome:
        try:
            return await self.once.run(self.record)
        finally:
            await self.once.close()


async def test_the_flow_gets_the_schedule_s_value() -> None:
    ran = Ran(binding(), "hello")
    assert await ran.outcome() is Outcome.SUCCEEDED
    (request,) = ran.flow.requests
    assert request.input == "good morning"
    assert request.session_id == request.request_id == f"shop.nightly-0-{DUE}"
    assert ran.flow.closed


async def test_the_result_goes_to_the_output() -> None:
    ran = Ran(binding(output={"topic": "out"}), "hello")
    assert await ran.outcome() is Outcome.SUCCEEDED
    ((topic, key, value, headers),) = ran.broker.produced
    assert (topic, key) == ("out", None)
    result = json.loads(value or b"")
    assert result["result"] == "hello"
    assert result["timestamp"] == "2026-11-25T02:00:00.000Z"
    assert result["source"] == {
        "topic": "shop.nightly",
        "partition": 0,
        "offset": DUE,
        "key": None,
    }
    assert headers["flowbinding-binding"] == b"shop/nightly"


@pytest.mark.parametrize(
    ("schedule", "seen"),
    [({"value": None}, " "), ({"value": {}}, "{} {}"), ({"value": {"a": None}}, NULL)],
    ids=["absent", "empty", "null inside"],
)
async def test_what_a_value_is_in_templates(schedule: dict[str, Any], seen: str) -> None:
    flow = {"backend": "Echo", "input": "{{ value }} {{ text }}"}
    ran = Ran(binding(schedule, flow=flow), "hello")
    await ran.outcome()
    assert ran.flow.requests[0].input == seen


async def test_a_filter_counts_as_good() -> None:
    source = {"schedule": {"cron": "0 2 * * *"}, "filter": "value"}
    ran = Ran(binding(source=source), "hello")
    assert await ran.outcome() is Outcome.FILTERED
    assert ran.flow.requests == []


async def test_it_is_tried_again() -> None:
    ran = Ran(binding(), error(Failure.TRANSIENT), error(Failure.TRANSIENT), "hello")
    assert await ran.outcome() is Outcome.SUCCEEDED
    assert len(ran.flow.requests) == 3
    assert len({request.request_id for request in ran.flow.requests}) == 1


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [(Failure.TRANSIENT, 3), (Failure.CONFIGURATION, 3), (Failure.POISON, 1)],
)
async def test_it_fails_in_the_end_whatever_the_reason(failure: Failure, attempts: int) -> None:
    """A worker waits for the repair of a flow; a Job must not."""
    ran = Ran(binding(), error(failure, "FlowNotFound"))
    with pytest.raises(RunFailedError, match="FlowNotFound: it does not work"):
        await ran.outcome()
    assert len(ran.flow.requests) == attempts
    assert ran.broker.produced == []


async def test_a_flow_s_fault_is_a_failure_like_others() -> None:
    ran = Ran(binding(), ZeroDivisionError())
    with pytest.raises(RunFailedError, match="UnexpectedError"):
        await ran.outcome()
    assert len(ran.flow.requests) == 3


async def test_a_template_that_fails_is_told() -> None:
    ran = Ran(binding(flow={"backend": "Echo", "input": "{{ value.nothing }}"}), "hello")
    with pytest.raises(RunFailedError, match=r"TemplateFailed: spec\.flow\.input line 1"):
        await ran.outcome()


async def test_a_dead_letter_has_the_message() -> None:
    ran = Ran(binding(deadLetter={"topic": "dead"}), error(Failure.POISON))
    with pytest.raises(RunFailedError):
        await ran.outcome()
    ((topic, key, value, headers),) = ran.broker.produced
    assert (topic, key) == ("dead", None)
    assert json.loads(value or b"") == {"message": "good morning"}
    assert headers["flowbinding-reason"] == b"FlowFailing"
    assert headers["flowbinding-group"] == b"shop.nightly"


async def test_kafka_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "DELIVERY_SECONDS", 0.05)
    ran = Ran(binding(output={"topic": "out"}), "hello")
    ran.producer.dead = True
    with pytest.raises(RunFailedError, match="its result could not be written within"):
        await ran.outcome()
    letters = Ran(binding(deadLetter={"topic": "dead"}), error(Failure.POISON))
    letters.producer.dead = True
    with pytest.raises(RunFailedError, match=r"FlowFailing: .* its dead letter could not"):
        await letters.outcome()


async def test_a_run_can_be_ended() -> None:
    ran = Ran(binding(retry={"initialBackoffSeconds": 60}), error(Failure.TRANSIENT))
    task = asyncio.create_task(ran.outcome())
    await until(lambda: bool(ran.flow.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran.flow.closed


@pytest.mark.parametrize(
    "spec",
    [{"flow": {"backend": "Langflow", "url": "http://langflow:7860"}}, {"paused": True}],
    ids=["no flow", "paused"],
)
async def test_nothing_to_run_is_no_failure(spec: dict[str, Any]) -> None:
    files = Files(Path("/nowhere"), Path("/nowhere"))
    assert await run_once(binding(**spec), files, "pod-1", None) is None


@given(minutes=st.integers(10_000_000, 99_999_999), late=st.integers(0, 7 * 86400))
def test_a_job_s_name_tells_when_it_was_due(minutes: int, late: int) -> None:
    due = minutes * 60_000
    assert scheduled_ms(f"nightly-worker-{minutes}", due + late * 1000) == due


@pytest.mark.parametrize("job", [None, "nightly-run-x7k2p", "nightly-12345678", "a-99999999"])
def test_without_such_a_name_it_is_due_now(job: str | None) -> None:
    assert scheduled_ms(job, DUE) == DUE


def test_last_words_go_where_kubernetes_looks(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    leave_last_words(path, "on a laptop there is no such file")
    assert not path.exists()
    path.touch()
    leave_last_words(path, "x" * 5000)
    assert path.read_text() == "x" * 2048


def test_a_schedule_and_once_go_together(tmp_path: Path) -> None:
    check_once(binding(), once=True)
    with pytest.raises(InvalidBindingError, match="--once runs its message now"):
        check_once(binding(), once=False)
    topics = binding(source={"topic": "in"})
    check_once(topics, once=False)
    with pytest.raises(InvalidBindingError, match="--once runs a schedule"):
        check_once(topics, once=True)


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ({}, False),
        ({"deadLetter": {"enabled": False}, "output": None}, False),
        ({"output": {"topic": "out"}}, True),
        ({"deadLetter": {"topic": "dead"}}, True),
        ({"deadLetter": {"topic": "dead", "enabled": False}}, False),
    ],
    ids=str,
)
def test_brokers_are_needed_only_for_what_is_written(
    tmp_path: Path, spec: dict[str, Any], needed: bool
) -> None:
    path = tmp_path / "binding.yaml"
    path.write_text(json.dumps(binding(**spec).document()))
    if needed:
        with pytest.raises(InvalidBindingError, match=r"spec\.kafka\.bootstrapServers: required"):
            read_manifest(str(path), {})
    else:
        read_manifest(str(path), {})


def test_a_wrong_schedule_is_not_blamed_on_kafka(tmp_path: Path) -> None:
    path = tmp_path / "binding.yaml"
    document = binding().document()
    document["spec"]["source"]["schedule"]["cron"] = "at two"
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidBindingError) as caught:
        read_manifest(str(path), {})
    assert [problem.path for problem in caught.value.problems] == ["spec.source.schedule.cron"]
