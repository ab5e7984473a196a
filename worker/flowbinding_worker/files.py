"""Secrets and ConfigMaps, as a Pod mounts them: `<directory>/<object name>/<key>`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from flowbinding_api.base import (
    CONFIGMAPS_DIRECTORY,
    FLOW_VOLUME_DIRECTORY,
    SECRETS_DIRECTORY,
    ConfigMapKeyRef,
    SecretKeyRef,
)
from flowbinding_api.reasons import Reason
from flowbinding_worker.ports import Failure, ProcessingError, Stage
from flowbinding_worker.redaction import redact


@dataclass(frozen=True, slots=True)
class Files:
    """Reads mounted files anew at each call: Kubernetes replaces them while the worker runs.

    Attributes:
        secrets: Directory of the Secrets.
        config_maps: Directory of the ConfigMaps.
        flow_volume: Where the volume with the flow's file is mounted.
    """

    secrets: Path = Path(SECRETS_DIRECTORY)
    config_maps: Path = Path(CONFIGMAPS_DIRECTORY)
    flow_volume: Path = Path(FLOW_VOLUME_DIRECTORY)

    def secret(self, ref: SecretKeyRef, field: str = "spec") -> bytes:
        """Content of a Secret's key, which nothing says any more from now on.

        Args:
            ref: Which one.
            field: Path of the field that refers to it, for messages.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing.
        """
        content = self.name(ref, field)
        redact.learn(content.decode(errors="replace").strip())
        return content

    def name(self, ref: SecretKeyRef, field: str = "spec") -> bytes:
        """As `secret`, for what may be said: a user's name, which may well be a word."""
        return _read("Secret", self.secrets, ref, field, Reason.SECRET_MISSING)

    def config_map(self, ref: ConfigMapKeyRef, field: str = "spec") -> bytes:
        """Content of a ConfigMap's key.

        Raises:
            ProcessingError: CONFIGURATION with reason ConfigMapMissing.
        """
        return _read("ConfigMap", self.config_maps, ref, field, Reason.CONFIG_MAP_MISSING)


FRESH_SECONDS = 1.0
"""A file that was changed so lately may change again within one tick of its clock."""

_known: dict[str, tuple[tuple[int, ...], bytes]] = {}


def _content(path: str) -> bytes:
    """What a file holds. It is asked for with each run: reading costs four times as much as a look.

    Kubernetes replaces the directory that a mounted file is in, so that its inode is another.
    """
    now = os.stat(path)  # noqa: PTH116 - pathlib takes three times as long
    marks = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
    known = _known.get(path)
    if known is not None and known[0] == marks:
        return known[1]
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        content = file.read()
    if time.time() - now.st_ctime > FRESH_SECONDS:
        _known[path] = marks, content
    return content


def _read(
    kind: str, root: Path, ref: SecretKeyRef | ConfigMapKeyRef, field: str, reason: Reason
) -> bytes:
    path = f"{root}/{ref.name}/{ref.key}"
    try:
        return _content(path)
    except OSError as error:
        raise ProcessingError(
            f"{field}: {kind} {ref.name} has no readable key {ref.key} at {path}"
            f" ({error.strerror}); create it in the binding's namespace",
            failure=Failure.CONFIGURATION,
            stage=Stage.CALL,
            reason=reason,
        ) from None
