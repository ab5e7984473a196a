"""The field reference (docs/reference.md), generated from the same schema as the CRD."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flowbinding_api.binding import API_VERSION, KIND
from flowbinding_api.crd import structural
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_api.status import FlowBindingStatus

_INTRODUCTION = f"""\
# Field reference

`{API_VERSION}`, kind `{KIND}`. Generated from the models by `make generate`; `kubectl explain
flowbinding.spec` shows the same. Fields in **bold** are required.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join(
        [
            _INTRODUCTION,
            *_table("spec", structural(FlowBindingSpec)),
            "",
            *_table("status", structural(FlowBindingStatus)),
            "",
        ]
    )


def _table(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield "| field | type | default | description |"
    yield "|---|---|---|---|"
    yield from _rows(name, schema)
    rules = sorted(set(_rules(name, schema)))
    if rules:
        yield "\nRules over several fields:\n"
        yield from rules


def _rows(path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    for name, node in schema.get("properties", {}).items():
        own = f"{path}.{name}"
        shown = f"**`{own}`**" if name in schema.get("required", ()) else f"`{own}`"
        cells = (shown, _type(node), _default(node), _escaped(node.get("description", "")))
        yield "| " + " | ".join(cells) + " |"
        yield from _rows(own, node)
        if node.get("type") == "array":
            yield from _rows(f"{own}[]", node["items"])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _rules(path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        yield f"- `{path}`: {rule['message']}"
    for name, node in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}", node)


def _type(node: Mapping[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in node:
        return " or ".join(str(value) for value in node["enum"])
    kind = str(node["type"])
    if kind == "array":
        return f"list of {_type(node['items'])}"
    if isinstance(node.get("additionalProperties"), Mapping):
        return f"map of {_type(node['additionalProperties'])}"
    return f"{kind} {_bounds(node)}".strip()


def _bounds(node: Mapping[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is None and high is None:
        return ""
    sign = ">" if node.get("exclusiveMinimum") else "≥"
    parts = [
        f"{sign} {low:g}" if low is not None else "",
        f"≤ {high:g}" if high is not None else "",
    ]
    return "(" + ", ".join(part for part in parts if part) + ")"


def _default(node: Mapping[str, Any]) -> str:
    default = node.get("default")
    return "" if default in (None, {}) else f"`{json.dumps(default)}`"
