"""`make bench-worker` runs: one small case from the broker to RESULTS.md."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from testbed import KafkaBroker
from testbed.paths import PROJECT


@pytest.mark.timeout(120)
async def test_a_case_is_measured(kafka: KafkaBroker, tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    case = ["--only", "FlowBinding S=20 ms C=10 Key", "--window", "1", "--singles", "5"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *case),
        *("--kafka", kafka.bootstrap, "--results", str(results)),
        env={**os.environ, "PYTHONPATH": f"{PROJECT / 'tests'}:{PROJECT / 'benchmarks'}"},
    )
    assert await process.wait() == 0
    text = results.read_text()
    row = re.search(r"\| FlowBinding \| 20 ms \| 10 \| Key \| 500 \| ([\d.]+) \| ([\d.]+) \|", text)
    assert row is not None, text
    # No call is answered early, so the ideal cannot be beaten but by rounding.
    assert 0 < float(row[2]) <= 1.02
    assert "p99" in text
