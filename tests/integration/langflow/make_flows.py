"""Writes the flows that the tests run: `.venv/bin/python tests/integration/langflow/make_flows.py`.

The files are the same for a Langflow server and for lfx in process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "true")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "components"))


def flows() -> dict[str, Any]:
    """Graphs by name."""
    from boom import Boom
    from lfx.components.input_output import ChatInput, ChatOutput
    from lfx.components.models_and_agents import PromptComponent
    from lfx.graph import Graph
    from makedata import MakeData
    from makeframe import MakeFrame
    from needs import Needs
    from sleeper import Sleeper
    from whoami import WhoAmI

    def source() -> Any:
        return ChatInput(_id="ChatInput-in")

    def target(output: Any, name: str = "out") -> Any:
        return ChatOutput(_id=f"ChatOutput-{name}").set(input_value=output)

    def through(component: Any, method: str) -> Any:
        start = source()
        component.set(input_value=start.message_response)
        return Graph(start, target(getattr(component, method)))

    def two() -> Any:
        start = source()
        graph = Graph(start, target(start.message_response))
        graph.add_component(target(start.message_response, "two"))
        return graph

    def prompt() -> Any:
        start = source()
        template = PromptComponent(_id="Prompt-p")
        template.set(template="Hello {name}: {text}", name="nobody", text=start.message_response)
        return Graph(start, target(template.build_prompt))

    def terminal() -> Any:
        start = source()
        return Graph(start, MakeData(_id="MakeData-x").set(input_value=start.message_response))

    start = source()
    return {
        "echo": Graph(start, target(start.message_response)),
        "echo-two": two(),
        "prompt": prompt(),
        "raises": through(Boom(_id="Boom-x"), "run_it"),
        "data-chat": through(MakeData(_id="MakeData-x"), "make"),
        "data-terminal": terminal(),
        "frame-chat": through(MakeFrame(_id="MakeFrame-x"), "make"),
        "sleeps": through(Sleeper(_id="Sleeper-x"), "run_it"),
        "whoami": through(WhoAmI(_id="WhoAmI-x"), "run_it"),
        "needs-package": through(Needs(_id="Needs-x"), "run_it"),
    }


def main() -> None:
    """Write every flow."""
    for name, graph in flows().items():
        document = graph.dump(name=name, endpoint_name=name, description=name)
        # lfx keeps these in sets.
        document["data"]["nodes"].sort(key=lambda node: node["id"])
        document["data"]["edges"].sort(key=lambda edge: (edge["source"], edge["target"]))
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
        (HERE / "flows" / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
