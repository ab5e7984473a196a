"""Reads the Secrets and ConfigMaps that bindings refer to, and remembers them for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowbinding_api.binding import FlowBinding
from flowbinding_operator.kube import Kube, KubeError
from flowbinding_operator.references import (
    Kind,
    Missing,
    Reference,
    check,
)

SHARED_SECONDS = 5.0
"""So long what one binding has read will do for the others of its namespace: a thousand that share
a Secret, and all begin now, read it a few times and not a thousand times."""


@dataclass(frozen=True, slots=True)
class Known:
    """What reading a binding's references gave.

    Attributes:
        objects: What was found; None for what does not exist or must not be read.
        refused: Of the latter, the API server's words.
        at: When, on the clock of the reader, in seconds.
    """

    objects: dict[tuple[Kind, str], Mapping[str, Any] | None] = field(default_factory=dict)
    refused: dict[tuple[Kind, str], str] = field(default_factory=dict)
    at: float = float("-inf")

    def missing(self, wanted: tuple[Reference, ...], binding: FlowBinding) -> Missing | None:
        """The first thing wrong with the references, if any."""
        return check(wanted, self.objects, binding, self.refused)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One object as it was at one time; None if there is none, or it must not be read."""

    at: float
    item: Mapping[str, Any] | None
    refusal: str = ""


class Referenced:
    """All bindings' Secrets and ConfigMaps. They are not watched."""

    def __init__(self, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._readings: dict[tuple[str, Kind, str], _Reading] = {}

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding."""
        self._known.pop(key, None)

    async def read(
        self, binding: FlowBinding, wanted: tuple[Reference, ...], *, believed: float
    ) -> Known:
        """What `wanted` leads to: as it was at most `believed` seconds ago, if it was complete.

        Raises:
            KubeError: When the API server gives no answer, or the namespace is about to go.
        """
        known = self._known.get(binding.key, Known())
        names = {(item.kind, item.name) for item in wanted}
        complete = known.objects.keys() == names and known.missing(wanted, binding) is None
        if complete and self._clock() - known.at < believed:
            return known
        namespace = binding.metadata.namespace
        fresh = await self._together(namespace, names, SHARED_SECONDS)
        if fresh.missing(wanted, binding) is not None:
            # Perhaps it was put right a moment ago.
            fresh = await self._together(namespace, names, 0.0)
        self._known[binding.key] = fresh
        return fresh

    async def _together(
        self, namespace: str, names: Iterable[tuple[Kind, str]], shared: float
    ) -> Known:
        """Objects of a namespace, some of which another binding may have read meanwhile."""
        readings = {
            (kind, name): await self._reading(kind, namespace, name, shared)
            for kind, name in sorted(names)
        }
        return Known(
            {key: found.item for key, found in readings.items()},
            {key: found.refusal for key, found in readings.items() if found.refusal},
            min((found.at for found in readings.values()), default=self._clock()),
        )

    async def _reading(self, kind: Kind, namespace: str, name: str, shared: float) -> _Reading:
        key, now = (namespace, kind, name), self._clock()
        found = self._readings.get(key)
        if found is not None and now - found.at < shared:
            return found
        try:
            found = _Reading(now, await self._kube.get(kind, namespace, name))
        except KubeError as error:
            if not error.refusal:
                raise
            found = _Reading(now, None, str(error))
        self._readings.pop(key, None)
        self._readings[key] = found
        # The oldest come first: whoever reads anything puts it last.
        while now - self._readings[first := next(iter(self._readings))].at >= SHARED_SECONDS:
            del self._readings[first]
        return found
