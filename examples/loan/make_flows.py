"""Writes the flow files of this example: `make_flows.py`, or `make_flows.py --check`.

Each flow is Chat Input → one component of components/ → Chat Output. A flow file carries the
source of its components, so run this after changing one. The same sources give the same bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "true")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "components"))


def component(module: str, name: str) -> Any:
    """A component of components/, with an id that tweaks can name."""
    return getattr(importlib.import_module(module), name)(_id=f"{name}-loan")


def flow(name: str, description: str, component: Any, field: str, output: Any) -> bytes:
    """One flow file; `field` of the component takes the input text, `output` is its answer."""
    from lfx.components.input_output import ChatInput, ChatOutput
    from lfx.graph import Graph

    source = ChatInput(_id="ChatInput-in")
    component.set(**{field: source.message_response})
    target: Any = ChatOutput(_id="ChatOutput-out")
    target.set(input_value=output)
    document = Graph(source, target).dump(name=name, endpoint_name=name, description=description)
    # lfx keeps these in sets.
    document["data"]["nodes"].sort(key=lambda node: node["id"])
    document["data"]["edges"].sort(key=lambda edge: (edge["source"], edge["target"]))
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def flows() -> dict[str, bytes]:
    """File names and contents."""
    intake = component("intake", "LoanIntake")
    risk = component("risk", "RiskScore")
    decision = component("decision", "LoanDecision")
    return {
        "application.json": flow(
            "loan-application", intake.description, intake, "request", intake.normalize
        ),
        "risk.json": flow("loan-risk", risk.description, risk, "application", risk.score),
        "decision.json": flow(
            "loan-decision", decision.description, decision, "risk", decision.decide
        ),
    }


def main() -> int:
    """Write the files, or with --check only compare; 1 when they differ."""
    check = "--check" in sys.argv[1:]
    stale = []
    for name, content in flows().items():
        path = HERE / "flows" / name
        if not path.exists() or path.read_bytes() != content:
            stale.append(name)
            if not check:
                path.write_bytes(content)
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run examples/loan/make_flows.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
