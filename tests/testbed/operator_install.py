"""Installing the operator as a user would: with Helm, from the chart of this checkout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.controlplane import IMAGE
from testbed.paths import PROJECT

CHART = PROJECT / "charts" / "flowbinding"
RELEASE = "flowbinding"
TAG = "testbed"


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Helm values over others, as Helm itself lays them over each other."""
    result = dict(base)
    for name, value in values.items():
        below = result.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[name] = merged(below or {}, value) if both else value
    return result


def defaults(bootstrap: str) -> dict[str, Any]:
    """The values that every testbed needs."""
    return {
        "image": {"repository": IMAGE, "tag": TAG},
        "kafka": {"bootstrapServers": bootstrap},
    }


def arguments(namespace: str) -> list[str]:
    """Helm's arguments; the values come on standard input."""
    return [
        *["upgrade", "--install", RELEASE, str(CHART)],
        *["--namespace", namespace, "--create-namespace"],
        *["--wait", "--timeout", "120s", "--values", "-"],
    ]
