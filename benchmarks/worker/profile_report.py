"""What a profile says: by library, and by the worker's own functions. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

Stacks = Sequence[tuple[int, Sequence[str]]]
"""How often, and `file:function` from the innermost outwards."""

_LIBRARY = re.compile(r"/site-packages/([A-Za-z0-9_]+)")
_OURS = re.compile(r"/(flowbinding_(?:worker|api)/[A-Za-z0-9_/]+)\.py$")
_STANDARD = re.compile(r"/lib/python3\.\d+/([A-Za-z0-9_]+)")


def by_library(stacks: Stacks) -> list[tuple[str, float]]:
    """Share of the time in each library's, or our own module's, code itself."""
    return _shares(((count, {_place(stack[0])}) for count, stack in stacks))


def by_function(stacks: Stacks) -> list[tuple[str, float]]:
    """Share of the time in each of the worker's functions and whatever they call."""
    return _shares((count, set(filter(None, map(_own, stack)))) for count, stack in stacks)


def _shares(found: Iterable[tuple[int, set[str]]]) -> list[tuple[str, float]]:
    seen: Counter[str] = Counter()
    total = 0
    for count, names in found:
        total += count
        for name in names:
            seen[name] += count
    return [(name, count / total) for name, count in seen.most_common()]


def _place(frame: str) -> str:
    path = frame.rpartition(":")[0]
    ours = _OURS.search(path)
    found = ours or _LIBRARY.search(path) or _STANDARD.search(path)
    return found[1] if found else path


def _own(frame: str) -> str:
    path, _, function = frame.rpartition(":")
    ours = _OURS.search(path)
    return f"{ours[1].removeprefix('flowbinding_')}: {function}" if ours else ""
