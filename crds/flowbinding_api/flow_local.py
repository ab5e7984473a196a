"""`spec.flow.file` and `spec.flow.local`: flows that run inside the worker's Pod."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from flowbinding_api.base import (
    ApiModel,
    ConfigMapKeyRef,
    ObjectName,
    Rule,
    SizeLimit,
    size_in_bytes,
)

AbsolutePath = Annotated[
    str, StringConstraints(min_length=2, max_length=1024, pattern=r"^/[^\x00]*$")
]
PathWithin = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^[^/\x00][^\x00]*$"),
]


class VolumeFile(ApiModel):
    """A file on a volume, which is mounted read-only."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim, in the binding's namespace. With more than one node it has
    to allow ReadOnlyMany or ReadWriteMany."""
    path: PathWithin
    """Path of the flow JSON on the volume, e.g. risk/flow.json. User 65532 must be able to read
    it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.path.matches('(^|/)[.][.](/|$)')",
            "must not lead out of the volume",
            "path",
            lambda file: ".." not in file["path"].split("/"),
        ),
    )


class FlowFile(ApiModel):
    """Where the Local backend finds its flow JSON. A flow file is code that the worker runs."""

    config_map_key_ref: ConfigMapKeyRef | None = None
    """The flow JSON as a key of a ConfigMap (at most 1 MiB)."""
    path: AbsolutePath | None = None
    """An absolute path in the worker's file system: of a file in an image of your own."""
    persistent_volume_claim: VolumeFile | None = None
    """A file on a PersistentVolumeClaim, for flows that are too large for a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.configMapKeyRef), has(self.path), has(self.persistentVolumeClaim)]"
            ".exists_one(given, given)",
            "set exactly one of configMapKeyRef, path and persistentVolumeClaim",
            holds=lambda file: (
                [
                    file[name] is not None
                    for name in ("configMapKeyRef", "path", "persistentVolumeClaim")
                ].count(True)
                == 1
            ),
        ),
    )


class OnMissingEngine(StrEnum):
    """What a Local flow does in a worker that has no engine."""

    FAIL = "Fail"
    ECHO = "Echo"


class LocalOptions(ApiModel):
    """The processes in which a worker runs a Local flow."""

    processes: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many processes run flows in each worker: one for each CPU it may use, but 2 at most, when
    absent. As many as concurrency.perReplica give each run a process of its own. Each takes 70 MiB
    and more, beside 190 MiB that they share."""
    max_runs_per_process: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10_000
    """A process is replaced after so many runs."""
    max_memory_growth: SizeLimit = "256Mi"
    """A process is replaced when it has grown by so much since it loaded the flow. "0" for
    never."""
    max_memory: SizeLimit = "0"
    """What a process may take beyond what it has once it has loaded the flow. A component that asks
    for more gets a MemoryError, and its message fails. "0" for no limit but the container's, where
    the kernel may end the whole worker."""

    @property
    def max_memory_bytes(self) -> int:
        """`max_memory` in bytes."""
        return size_in_bytes(self.max_memory)

    @property
    def max_growth_bytes(self) -> int:
        """`max_memory_growth` in bytes."""
        return size_in_bytes(self.max_memory_growth)
