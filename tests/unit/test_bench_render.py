"""`make bench-render`: what it renders, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowbinding_worker.payload import Payload
from render.__main__ import main
from render.cases import ANSWER, MESSAGE_BYTES, SPECS, binding, message, render
from render.report import BEGIN, END


def test_the_message_has_the_size_that_the_table_names() -> None:
    assert len(message().value or b"") == MESSAGE_BYTES


def test_every_field_is_rendered() -> None:
    payload = Payload(binding(SPECS["every field a template"]))
    request = payload.request(message())
    assert request is not None
    assert request.input.startswith("Applicant Ada Lovelace asks for 25000.5: please decide")
    assert request.tweaks["Model-x"] == {"model_name": "rules-v1", "temperature": 0.2}
    written = payload.output(message(), request, ANSWER)
    assert (written.topic, written.key) == ("approved", b"c-4711")
    assert json.loads(written.value) == {"id": "a-0123456789ab", "score": 712}


def test_a_message_that_is_filtered_out_is_no_measure() -> None:
    spec = {**SPECS["defaults"], "filter": "value.amount < 0"}
    with pytest.raises(ValueError, match="filtered out"):
        render(Payload(binding(spec)), message())


def test_the_section_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text(f"# Benchmarks\n\n{BEGIN}\nold\n{END}\n\n## Other\n")
    main(seconds=0.01, results=results, write_results=True)
    text = results.read_text()
    assert "old" not in text
    assert text.startswith(f"# Benchmarks\n\n{BEGIN}\n## Rendering")
    assert text.endswith(f"{END}\n\n## Other\n")
    assert all(f"| {name} | " in text for name in SPECS)
    assert "us/message" in capsys.readouterr().out
