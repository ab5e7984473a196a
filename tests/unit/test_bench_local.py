"""`make bench-local`: what it reads from /proc, and what it writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from local.measure import FLOWS, Case, Cost, children, pss_bytes
from local.report import section
from results import write

MIB = 1024 * 1024


def test_what_the_kernel_says_about_processes() -> None:
    before = children(os.getpid())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as started:
        assert set(children(os.getpid())) - set(before) == {started.pid}
    assert 5 * MIB < pss_bytes(os.getpid()) < 4096 * MIB


@pytest.mark.parametrize("flow", ["echo", "prompt"])
def test_the_flows_are_there(flow: str) -> None:
    assert (FLOWS / f"{flow}.json").exists()


def test_the_section_is_put_beside_others(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Benchmarks\n\n## Other\n")
    cost = Cost(Case("echo", 10), 40.4, 24.96, 0.512, 103 * MIB, 92 * MIB, 25 * MIB)
    write(results, section([cost._replace(per_second=1.0)], 500, ["2 cores"]))
    write(results, section([cost], 500, ["2 cores"]))
    text = results.read_text()
    assert text.startswith("# Benchmarks\n\n## Other\n\n<!-- local: ")
    assert text.count("## Local flows") == 1
    assert "| echo | 10 | 40 | 25.0 | 0.51 | 103 | 92 | 25 |\n<!-- /local -->" in text
