"""Writes the flows that the tests run: `.venv/bin/python tests/integration/langflow/make_flows.py`.

The files are the same for a Langflow server and for lfx in process.
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


def own(name: str) -> Any:
    """A component of components/, in a file that has its name in lower case."""
    return getattr(importlib.import_module(name.lower()), name)(_id=f"{name}-x")


def flows() -> dict[str, Any]:
    """Graphs by name."""
    from lfx.components.input_output import ChatInput, ChatOutput
    from lfx.components.models_and_agents import PromptComponent
    from lfx.graph import Graph

    def source() -> Any:
        return ChatInput(_id="ChatInput-in")

    def target(output: Any) -> Any:
        component: Any = ChatOutput(_id="ChatOutput-out")
        return component.set(input_value=output)

    def through(name: str, method: str) -> Any:
        start, component = source(), own(name)
        component.set(input_value=start.message_response)
        return Graph(start, target(getattr(component, method)))

    def prompt() -> Any:
        start = source()
        template: Any = PromptComponent(_id="Prompt-p")
        template.set(template="Hello {name}: {text}", name="nobody", text=start.message_response)
        return Graph(start, target(template.build_prompt))

    def terminal() -> Any:
        start = source()
        return Graph(start, own("MakeData").set(input_value=start.message_response))

    start = source()
    return {
        "echo": Graph(start, target(start.message_response)),
        "prompt": prompt(),
        "raises": through("Boom", "run_it"),
        "data-chat": through("MakeData", "make"),
        "data-terminal": terminal(),
        "frame-chat": through("MakeFrame", "make"),
        "sleeps": through("Sleeper", "run_it"),
        "whoami": through("WhoAmI", "run_it"),
        "variables": through("Weather", "run_it"),
        "needs-package": through("Needs", "run_it"),
    }


def with_second_output(document: dict[str, Any]) -> dict[str, Any]:
    """The same flow with its output twice; a graph made in Python keeps only one."""
    data = document["data"]
    for part, mark in (("nodes", "id"), ("edges", "target")):
        twin = next(item for item in data[part] if item[mark] == "ChatOutput-out")
        data[part].append(json.loads(json.dumps(twin).replace("ChatOutput-out", "ChatOutput-two")))
    return document


def write(name: str, document: dict[str, Any]) -> None:
    """Write one flow file."""
    document = {**document, "name": name, "endpoint_name": name, "description": name}
    # lfx keeps these in sets.
    document["data"]["nodes"].sort(key=lambda node: node["id"])
    document["data"]["edges"].sort(key=lambda edge: (edge["source"], edge["target"]))
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (HERE / "flows" / f"{name}.json").write_text(text + "\n")


def main() -> None:
    """Write every flow."""
    for name, graph in flows().items():
        document = graph.dump()
        write(name, document)
        if name == "echo":
            write("echo-two", with_second_output(document))


if __name__ == "__main__":
    main()
