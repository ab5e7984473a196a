"""Manifests for tests: one valid base, and what is merged into it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parent / "data"

BASE: dict[str, Any] = {
    "apiVersion": "flowbinding.io/v1alpha1",
    "kind": "FlowBinding",
    "metadata": {"name": "example", "namespace": "default"},
    "spec": {"source": {"topic": "in"}, "flow": {"backend": "Echo"}},
}


def manifest(patch: Mapping[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """The base manifest with `patch` merged into it, then `spec` fields merged into its spec."""
    return merge(merge(BASE, patch or {}), {"spec": spec})


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7386), without touching its arguments."""
    merged = copy.deepcopy(dict(base))
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge(merged.get(key) or {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def wrong_manifests() -> list[dict[str, Any]]:
    """Cases of `name`, `patch` and the `field` that a refusal must name."""
    cases: list[dict[str, Any]] = yaml.safe_load((DATA / "wrong_manifests.yaml").read_text())
    return cases
