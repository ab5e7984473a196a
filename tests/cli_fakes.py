"""Kubernetes in memory, and the commands run in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from flowbinding_cli.kube import Object
from flowbinding_cli.main import app
from manifests import manifest


@dataclass
class FakeKube:
    """Kubernetes in memory, in namespace `team`."""

    live: dict[str, Object] = field(default_factory=dict)
    config_maps: dict[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    namespace: str = "team"

    def binding(self, namespace: str, name: str) -> Object | None:
        return self.live.get(f"{namespace}/{name}")

    def bindings(self, namespace: str | None) -> Sequence[Object]:
        return [o for key, o in self.live.items() if namespace in (None, key.partition("/")[0])]

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        return self.config_maps.get(f"{namespace}/{name}")

    def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        return self.secrets.get(f"{namespace}/{name}")

    def cron_job(self, namespace: str, name: str) -> Object | None:
        return None

    def job(self, namespace: str, name: str) -> Object | None:
        return None

    def create_job(self, namespace: str, manifest: Object) -> Object:
        raise AssertionError("nobody asked for a Job")

    def pods(self, namespace: str, selector: str) -> list[Object]:
        return []

    def log(self, namespace: str, pod: str) -> list[str]:
        return []


def live(name: str = "example", namespace: str = "team", **spec: Any) -> dict[str, Any]:
    return manifest({"metadata": {"name": name, "namespace": namespace}}, **spec)


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def file(folder: Path, *documents: Any) -> str:
    path = folder / "binding.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)
