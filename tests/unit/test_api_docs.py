"""Generated pages cover everything and are committed."""

from __future__ import annotations

import runpy
from pathlib import Path

from flowbinding_api.reasons import Reason
from flowbinding_api.troubleshooting import ADVICE

ROOT = Path(__file__).parents[2]


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == set(Reason)


def test_what_is_wrong_comes_with_a_remedy() -> None:
    for reason, (condition, meaning, remedy) in ADVICE.items():
        assert meaning, reason
        if condition.endswith(("Ready=False", "Degraded=True", "FlowReachable=False")):
            assert remedy, reason


def test_generated_files_are_committed() -> None:
    generated = runpy.run_path(str(ROOT / "crds" / "generate.py"))["generated"]()
    for name, content in generated.items():
        assert (ROOT / name).read_text(encoding="utf-8") == content, name
