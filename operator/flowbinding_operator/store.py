"""What the watches have seen last: bindings and worker Deployments, by `<namespace>/<name>`. Pure.

Reconciling reads from here, so it costs no requests. Results of our own writes are put in too: the
watch brings them a little later, and a stale view would look like drift.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from flowbinding_operator.pod import BINDING_LABEL

Object = Mapping[str, Any]

# Python 3.12 alone never frees what was interned: each version that an object ever had would stay.
_one_of: Callable[[str], str] = str if sys.version_info[:2] == (3, 12) else sys.intern


def key_of(item: Object) -> str:
    """`<namespace>/<name>` of an object."""
    metadata = item["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def binding_key(deployment: Object) -> str | None:
    """Key of the binding that a Deployment belongs to."""
    metadata = deployment["metadata"]
    name = (metadata.get("labels") or {}).get(BINDING_LABEL)
    return f"{metadata['namespace']}/{name}" if name else None


class Cache:
    """The newest version seen of each object of one kind."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}

    def get(self, key: str) -> Object | None:
        """The object, or None."""
        return self._objects.get(key)

    def put(self, key: str, item: Object) -> bool:
        """Remember an object. False when it is not newer than what is known."""
        known = self._objects.get(key)
        if known is not None and _same(known, item) and version(item) <= version(known):
            return False
        item = _slim(item)
        if known is not None and _same_spec(known, item):
            # One copy, also for those who have kept it; and telling that it is the same costs less.
            rest = {name: value for name, value in item.items() if name != "spec"}
            self._objects[key] = {**_shared(rest), "spec": known["spec"]}
        else:
            self._objects[key] = _shared(item)
        return True

    def update(self, key: str, item: Object) -> None:
        """Take in what a write of ours gave, unless the watch has seen that object go meanwhile."""
        known = self._objects.get(key)
        if known is not None and _same(known, item):
            self.put(key, item)

    def drop(self, key: str) -> None:
        """Forget an object."""
        self._objects.pop(key, None)

    def all_keys(self) -> list[str]:
        """Keys of all objects."""
        return list(self._objects)

    def all(self) -> list[Object]:
        """All objects."""
        return list(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)


def _slim(item: Object) -> Object:
    """An object without what nobody asks it for: of who owns which field, only replicas matter.

    That is half of what a thousand bindings and their Deployments take in memory.
    """
    metadata = item["metadata"]
    if not metadata.get("managedFields"):
        return item
    owners = [
        {"manager": entry.get("manager"), "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in metadata["managedFields"]
        if owns_replicas(entry)
    ]
    return {**item, "metadata": {**metadata, "managedFields": owners}}


def _shared(value: Any) -> Any:
    """A copy whose strings are one with equal ones, of which thousands of objects have many."""
    kind = type(value)
    if kind is str:
        return _one_of(value)
    if kind is dict:
        return {_one_of(name): _shared(below) for name, below in value.items()}
    if kind is list:
        return [_shared(below) for below in value]
    return value


def owns_replicas(entry: Object) -> bool:
    """Whether an entry of `managedFields` is of somebody who owns a Deployment's replicas."""
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _same_spec(one: Object, other: Object) -> bool:
    """Whether two versions of an object have the same spec, as far as it has one."""
    # Only the generation tells 1 from true.
    counts = [item["metadata"].get("generation") for item in (one, other)]
    same = _same(one, other) and counts[0] == counts[1]
    return same and "spec" in other and bool(one.get("spec") == other["spec"])


def _same(one: Object, other: Object) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def version(item: Object) -> int:
    """An object's resourceVersion as a number."""
    # Opaque by the letter; comparable as a number in fact, and by the letter since 1.35.
    version = item["metadata"].get("resourceVersion", "")
    return int(version) if version.isdigit() else 0
