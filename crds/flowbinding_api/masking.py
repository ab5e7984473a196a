"""A manifest that may be shown: it names Secrets, but tweaks, variables and URLs may hold some."""

from __future__ import annotations

import re
from typing import Any

from flowbinding_api.binding import FlowBinding

MASK = "***"

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(?<=\?)[^\s#]+(?=#|\s|$)")
_SECRET_NAME = re.compile(
    r"password|passwd|secret|token|api[-_]?key|authorization|bearer|credential|cookie|private[-_]?key",
    re.IGNORECASE,
)
_ONLY_NAMES = ("Ref", "Header", "imagePullSecrets", "tokenUrl")
"""Fields that name Secrets, headers or addresses and hold none."""


def masked(binding: FlowBinding) -> dict[str, Any]:
    """The manifest as plain data in the API's spelling, with `***` for what may be secret."""
    shown: dict[str, Any] = _mask(binding.document())
    return shown


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
    if name == "globalVariables":
        # Their names may say nothing, and their values anything.
        hidden = {"value": MASK}
        return {key: {**item, **hidden} if "value" in item else item for key, item in value.items()}
    if name == "headers" and isinstance(value, dict):
        return dict.fromkeys(value, MASK)
    if _SECRET_NAME.search(name) and not name.endswith(_ONLY_NAMES):
        return MASK
    return _mask(value)
