"""The manifest that a worker runs: read, overridden by the environment, checked, and shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbinding_api import FlowBinding, InvalidBindingError, Problem, load_binding
from flowbinding_api.resolve import with_overrides

STDIN = "-"

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET_NAME = re.compile(r"password|passwd|secret|token|api[-_]?key|authorization", re.IGNORECASE)
MASK = "***"


def read_manifest(file: str | None, environment: Mapping[str, str]) -> FlowBinding:
    """The binding to run.

    Args:
        file: Path of the manifest; `-` for standard input.
        environment: Where overrides are.

    Raises:
        InvalidBindingError: Naming everything that is wrong, an unreadable file included.
    """
    binding = with_overrides(load_binding(_text(file)), environment)
    if binding.spec.kafka.bootstrap_servers is None:
        raise InvalidBindingError([Problem("spec.kafka.bootstrapServers", "required by a worker")])
    return binding


def masked(binding: FlowBinding) -> dict[str, Any]:
    """The manifest for the log. It names Secrets, but tweaks, variables and URLs may hold some."""
    shown: dict[str, Any] = _mask(binding.document())
    return shown


def _text(file: str | None) -> str:
    if not file:
        raise InvalidBindingError([Problem("--file", "required, or FLOWBINDING_FILE; - is stdin")])
    try:
        return sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "not UTF-8"
        raise InvalidBindingError([Problem("--file", f"cannot read {file}: {what}")]) from None


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        named = value.get("name")
        if "value" in value and isinstance(named, str):
            # An environment variable of the Pod: literal values are nobody's business.
            return {**value, "value": MASK}
        return {key: _mask_field(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return _USERINFO.sub(MASK, value) if isinstance(value, str) else value


def _mask_field(name: str, value: Any) -> Any:
    # apiKeySecretRef and apiKeyHeader are names, not secrets.
    if isinstance(value, str) and _SECRET_NAME.search(name) and not name.endswith("Header"):
        return MASK
    return _mask(value)
