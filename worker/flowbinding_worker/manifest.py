"""The manifest that a worker runs: read, overridden by the environment, checked, and shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbinding_api import FlowBinding, InvalidBindingError, Problem, parse_binding, read_document
from flowbinding_api.resolve import with_overrides

STDIN = "-"

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(?<=\?)[^\s#]+(?=#|\s|$)")
_SECRET_NAME = re.compile(
    r"password|passwd|secret|token|api[-_]?key|authorization|bearer|credential|cookie|private[-_]?key",
    re.IGNORECASE,
)
_ONLY_NAMES = ("Ref", "Header", "imagePullSecrets")
"""Fields that name Secrets or headers and hold none."""
MASK = "***"


def read_manifest(file: str | None, environment: Mapping[str, str]) -> FlowBinding:
    """The binding to run.

    Args:
        file: Path of the manifest; `-` for standard input.
        environment: Where overrides are.

    Raises:
        InvalidBindingError: Naming everything that is wrong, an unreadable file included.
    """
    document = with_overrides(read_document(_text(file)), environment)
    problems = []
    try:
        binding = parse_binding(document)
        if binding.spec.kafka.bootstrap_servers is not None:
            return binding
    except InvalidBindingError as error:
        problems = error.problems
    if not _has_brokers(document):
        problems.append(Problem("spec.kafka.bootstrapServers", "required by a worker"))
    raise InvalidBindingError(problems)


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


def _has_brokers(document: Any) -> bool:
    try:
        return document["spec"]["kafka"]["bootstrapServers"] is not None
    except (KeyError, TypeError):
        return False


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        if "value" in value and {"name", "key"} & value.keys():
            # A variable of the Pod, or a header in a tweak: literal values are nobody's business.
            return {**value, "value": MASK}
        return {key: _mask_field(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    if isinstance(value, str):
        return _QUERY.sub(MASK, _USERINFO.sub(MASK, value))
    return value


def _mask_field(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) and not name.endswith(_ONLY_NAMES):
        return MASK
    return _mask(value)
