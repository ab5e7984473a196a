"""The examples' own commands, as `make example` runs them."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUN = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "run.py"))
OUTCOMES = {
    "consumer": "Answer in three words.",
    "schedule": "Succeeded\n",
    "secured": '"report": {"shop": "Hamburg", "text": "Revenue: 1200 EUR"}',
}


def test_the_examples_run(operator: Testbed, capfd: pytest.CaptureFixture[str]) -> None:
    if operator.kind_context:
        pytest.skip("examples run on the testbed itself")
    assert set(OUTCOMES) == set(RUN["NAMES"])
    # At once: most of their time they wait for Pods.
    try:
        with ThreadPoolExecutor() as pool:
            codes = [*pool.map(partial(RUN["run"], operator), OUTCOMES)]
    finally:
        for name in OUTCOMES:
            operator.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
    said = capfd.readouterr()
    assert codes == [0, 0, 0], said
    assert [text for text in OUTCOMES.values() if text not in said.out] == []
