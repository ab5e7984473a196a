"""The CustomResourceDefinition, generated from the models.

pydantic writes JSON Schema with `$ref`, `anyOf` for optional fields and titles; the API server
wants a structural schema: everything inline, every node typed, no unions. This module translates,
and refuses what it cannot translate, so that a model that would make a wrong CRD fails
`make generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from flowbinding_api.base import ApiModel
from flowbinding_api.binding import GROUP, KIND, PLURAL, SHORT_NAME, VERSION, FlowBinding
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_api.status import FlowBindingStatus

HEADER = "# Generated from the models in crds/flowbinding_api by `make generate`. Do not edit.\n"

_KEPT = (
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "format",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)

# Of several names in brackets, kubectl shows the first that is there.
COLUMNS = (
    ("Topic", "string", ".spec.source['topic','topics']", 0, "Source topics"),
    ("Flow", "string", ".spec.flow['id','backend']", 0, "Flow; its backend if it has no id"),
    ("Replicas", "integer", ".status.replicas", 0, "Worker Pods"),
    ("Lag", "integer", ".status.lag", 0, "Messages not yet done"),
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0, "All is well"),
    ("Desired", "integer", ".status.desiredReplicas", 1, "Worker Pods that should run"),
    ("LagSeconds", "number", ".status.lagSeconds", 1, "Age of the oldest message"),
    ("Rate", "number", ".status.arrivalRate", 1, "Messages per second that arrive"),
    ("Reason", "string", ".status.reason", 1, "Why that many Pods"),
    ("Schedule", "string", ".spec.source.schedule.cron", 1, "When it runs without messages"),
    ("LastRun", "date", ".status.lastScheduleTime", 1, "Since a scheduled run was due last"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since when"),
)


class _Dumper(yaml.SafeDumper):
    """Writes shared parts out each time: anchors are legal YAML, but not every tool takes them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [_version()],
        },
    }


def crd_yaml() -> str:
    """The content of crds/flowbinding.yaml."""
    return HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.scaling.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": n, "type": t, "jsonPath": p, "priority": prio, "description": d}
            for n, t, p, prio, d in COLUMNS
        ],
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Runs an AI flow for every message of a Kafka topic, or at certain times.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(FlowBindingSpec),
            "status": structural(FlowBindingStatus),
        },
        "x-kubernetes-validations": _validations(FlowBinding),
    }


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """A model as a structural schema, with the rules of every model in it."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    rules = {m.__name__: _validations(m) for m in _models(model)}
    return _node(schema, schema.get("$defs", {}), rules)


def _models(model: type[BaseModel]) -> Iterator[type[ApiModel]]:
    """All models reachable from `model`, itself included."""
    seen: set[Any] = set()
    stack: list[Any] = [model]
    while stack:
        item = stack.pop()
        if item in seen:
            continue
        seen.add(item)
        if inspect.isclass(item) and issubclass(item, ApiModel):
            yield item
            stack.extend(info.annotation for info in item.model_fields.values())
        stack.extend(getattr(item, "__args__", ()))


def _validations(model: type[ApiModel]) -> list[dict[str, str]]:
    found = []
    for rule in model.rules:
        entry = {"rule": rule.cel, "message": f"{rule.field} {rule.message}".strip()}
        if rule.field and not rule.field.startswith("metadata"):
            entry["fieldPath"] = "." + rule.field
        found.append(entry)
    return found


def _node(
    schema: Mapping[str, Any], defs: Mapping[str, Any], rules: Mapping[str, list[dict[str, str]]]
) -> dict[str, Any]:
    schema = _inline(schema, defs)
    out: dict[str, Any] = {}
    if schema.get("x-kubernetes-int-or-string"):
        schema = {k: v for k, v in schema.items() if k not in ("anyOf", "type")}
    elif "type" in schema:
        out["type"] = schema["type"]
    else:
        raise TypeError(f"no structural type for {schema}")
    if schema.get("description"):
        out["description"] = " ".join(schema["description"].split())
    out.update({key: schema[key] for key in _KEPT if key in schema})
    if "const" in schema:
        out["enum"] = [schema["const"]]
    for bound, flag in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:
            out[flag], out[bound] = schema[bound], True
    if out.get("type") == "array":
        out["items"] = _node(schema["items"], defs, rules)
    if out.get("type") == "object":
        out.update(_object(schema, defs, rules))
    if schema.get("default") not in (None, []):
        out["default"] = _default(schema, out)
    return out


def _default(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Any:
    """A field's default; that of an object spells out its fields' own.

    The API server would fill them in itself, but it evaluates the rules on the bare default.
    """
    if node.get("type") != "object":
        return schema["default"]
    properties = node.get("properties", {})
    return {name: child["default"] for name, child in properties.items() if "default" in child}


def _object(
    schema: Mapping[str, Any], defs: Mapping[str, Any], rules: Mapping[str, list[dict[str, str]]]
) -> dict[str, Any]:
    if "properties" in schema:
        out: dict[str, Any] = {
            "properties": {k: _node(v, defs, rules) for k, v in schema["properties"].items()}
        }
        if rules.get(schema.get("title", "")):
            out["x-kubernetes-validations"] = rules[schema["title"]]
        return out
    values = schema.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _node(values, defs, rules)}


def _inline(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve `$ref` and `X | None`; the description at the field wins over the type's own."""
    own = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf", "$defs")}
    if "$ref" in schema:
        target = _inline(defs[schema["$ref"].rsplit("/", 1)[1]], defs)
        return {**target, **own}
    options = [o for o in schema.get("anyOf", []) if o.get("type") != "null"]
    if options and not schema.get("x-kubernetes-int-or-string"):
        if len(options) > 1:
            raise TypeError(f"a union cannot be a structural schema: {schema}")
        return {**_inline(options[0], defs), **own}
    return dict(schema)
