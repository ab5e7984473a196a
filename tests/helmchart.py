"""Renders the Helm chart for tests, without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "charts" / "flowbinding"
NAMESPACE = "operators"
DIGEST = "sha256:" + "0123456789abcdef" * 4
MONITORING = ("--api-versions", "monitoring.coreos.com/v1")

Manifest = dict[str, Any]


class Rendered:
    """The manifests of one `helm template`."""

    def __init__(self, text: str) -> None:
        self.all: list[Manifest] = [d for d in yaml.safe_load_all(text) if d is not None]

    def of(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.all if manifest["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        (manifest,) = self.of(kind)
        return manifest

    @property
    def pod(self) -> Manifest:
        template: Manifest = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def container(self) -> Manifest:
        (container,) = self.pod["spec"]["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with a value, as the kubelet expands them."""
        variables = {v["name"]: v["value"] for v in self.container["env"] if "value" in v}
        return {k: v.replace("$(POD_IP)", "10.1.2.3") for k, v in variables.items()}


class Chart:
    """The chart and a helm that knows neither a cluster nor the user's configuration."""

    def __init__(self, helm: Path, home: Path) -> None:
        self._helm = helm
        homes = {f"HELM_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **homes, "KUBECONFIG": str(home / "no-kubeconfig")}

    def run(
        self, *arguments: str, values: Mapping[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._helm, *arguments, "--values", "-"],
            input=json.dumps(values or {}),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def render(self, *arguments: str, release: str = "flowbinding", **values: Any) -> Rendered:
        command = ("template", release, str(CHART), "--namespace", NAMESPACE)
        done = self.run(*command, *arguments, values=values)
        assert done.returncode == 0, done.stderr
        return Rendered(done.stdout)

    def notes(self, **values: Any) -> str:
        command = ("install", "flowbinding", str(CHART), "--namespace", NAMESPACE)
        done = self.run(*command, "--dry-run=client", values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("\nNOTES:\n")[2]


EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "flows"},
    "image": {"digest": DIGEST},
    "imagePullSecrets": [{"name": "registry"}],
    "kafka": {
        "bootstrapServers": "a:9093,b:9093",
        "tls": {"enabled": True, "caSecretRef": {"name": "ca", "key": "ca.crt"}},
        "sasl": {
            "mechanism": "SCRAM-SHA-512",
            "usernameSecretRef": {"name": "user", "key": "name"},
            "passwordSecretRef": {"name": "user", "key": "password"},
        },
    },
    "extraEnv": [{"name": "TZ", "value": "Etc/UTC"}],
    "podLabels": {"sidecar": "no"},
    "podAnnotations": {"example.org/note": "yes"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"annotations": {"example.org/role": "flow"}},
    "metrics": {
        "service": {"annotations": {"example.org/scrape": "true"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"podSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
    },
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-b\n",
    ],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "namespaces": {**EVERYTHING, "watchNamespaces": ["orders", "billing"]},
    "bare": {
        "serviceAccount": {"create": False},
        "rbac": {"create": False},
        "crds": {"enabled": False},
        "metrics": {"service": {"enabled": False}},
    },
}
