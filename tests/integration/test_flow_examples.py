"""Flows of the examples: the loan example's agents understand each other, samples run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowbinding_api import FlowBinding, load_binding
from flowbinding_cli.manifests import Sample, sample_text
from flowbinding_worker.files import Files
from flowbinding_worker.flows import make_flow
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Partition, Record

LOAN = Path(__file__).parents[2] / "examples" / "loan"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince212"),
]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "loan-flows").symlink_to(LOAN / "flows")
    return Files(config_maps=tmp_path)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_flow_files_are_what_make_flows_writes(seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(LOAN / "make_flows.py"), "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def example(name: str) -> FlowBinding:
    return load_binding((LOAN / f"{name}.yaml").read_text())


async def passed_on(binding: FlowBinding, message: Record, files: Files) -> Record | None:
    """What the binding makes of a message, without Kafka."""
    payload, flow = Payload(binding), make_flow(binding, files)
    request = payload.request(message)
    if request is None:
        return None
    await flow.start()
    key, value, topic = payload.output(message, request, await flow.run(request))
    await flow.close()
    return Record(Partition(topic, 0), 0, key, value, (), message.timestamp_ms)


def application(**fields: Any) -> Record:
    content = {
        "application_id": "a-1",
        "applicant": " ada   lovelace ",
        "amount": "25,000",
        "monthly_income": 4000,
        "existing_debt": 2000,
        "term_months": 48,
        **fields,
    }
    value = json.dumps(content).encode()
    return Record(Partition("finance.loan.request.v1", 0), 7, b"a-1", value, (), 0)


async def test_the_three_agents(files: Files) -> None:
    applied = await passed_on(example("application"), application(), files)
    assert applied is not None
    assert json.loads(applied.value or b"") == {
        "application_id": "a-1",
        "applicant": "Ada Lovelace",
        "amount": 25000.0,
        "monthly_income": 4000.0,
        "existing_debt": 2000.0,
        "term_months": 48.0,
        "valid": True,
        "problems": [],
    }
    scored = await passed_on(example("risk"), applied, files)
    assert scored is not None
    score = json.loads(scored.value or b"")["result"]
    assert (score["score"], score["model"], score["temperature"]) == (736, "rules-v1", 0.2)
    decided = await passed_on(example("decision"), scored, files)
    assert decided is not None
    assert (decided.partition.topic, decided.key) == ("finance.loan.decision.v1", b"a-1")
    decision = json.loads(decided.value or b"")
    assert decision["binding"] == "loan/loan-decision"
    assert decision["result"] == {
        "application_id": "a-1",
        "amount": 25000.0,
        "decision": "approved",
        "reason": "score 736 reaches 700",
        "score": 736,
        "model": "rules-v1",
        "temperature": 0.0,
    }


@pytest.mark.parametrize(
    ("which", "answer"),
    [
        (Sample.SIMPLE, "Where is it?"),
        (Sample.ADVANCED, "Answer in three words.\n\nQuestion: Where is it?"),
    ],
    ids=["simple", "advanced"],
)
async def test_the_commands_sample_flows_run(which: Sample, answer: str, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "flow.json").write_text(sample_text(which, "json"))
    consumer = (LOAN.parent / "consumer" / "binding.yaml").read_text()
    value = b'{"message": "Where is it?", "style": "three words"}'
    message = Record(Partition("questions.v1", 0), 0, None, value, (), 0)
    written = await passed_on(load_binding(consumer), message, Files(config_maps=tmp_path))
    assert written is not None
    assert json.loads(written.value or b"")["result"] == answer


async def test_an_invalid_application_is_reported_and_not_scored(files: Files) -> None:
    asked = application(amount="a lot", applicant="")
    applied = await passed_on(example("application"), asked, files)
    assert applied is not None
    content = json.loads(applied.value or b"")
    assert content["valid"] is False
    assert content["problems"] == ["applicant: missing", "amount: expected 500 to 1000000"]
    assert await passed_on(example("risk"), applied, files) is None
