"""Kubeconfig files: written for the testbed, and read to see which cluster is meant."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from testbed import files
from testbed.pki import PRIVATE, KeyPair

CONTEXT = "flowbinding-testbed"


def write(
    path: Path, server: str, ca: Path, *, user: str, token: str = "", pair: KeyPair | None = None
) -> Path:
    """Write a kubeconfig that holds all it needs, so that it can be copied elsewhere."""
    credentials: dict[str, str] = {"token": token} if token else {}
    if pair:
        credentials["client-certificate-data"] = _base64(pair.certificate)
        credentials["client-key-data"] = _base64(pair.key)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {"server": server, "certificate-authority-data": _base64(ca)},
            }
        ],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
    }
    files.write(path, yaml.safe_dump(content, sort_keys=False), PRIVATE)
    return path


def with_token(source: Path, path: Path, user: str, token: str) -> Path:
    """Write a copy of a kubeconfig of one cluster, with another user's token."""
    content: dict[str, Any] = yaml.safe_load(source.read_text())
    content["users"] = [{"name": user, "user": {"token": token}}]
    content["contexts"][0]["context"]["user"] = user
    files.write(path, yaml.safe_dump(content, sort_keys=False), PRIVATE)
    return path


def current_context(paths: list[Path]) -> str | None:
    """The context that kubectl would use: the first file that names one decides."""
    for path in paths:
        if not path.exists():
            continue
        content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
        if context := content.get("current-context"):
            return str(context)
    return None


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
