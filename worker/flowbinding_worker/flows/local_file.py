"""The flow JSON of a Local flow, wherever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowbinding_api.flow import Flow
from flowbinding_api.reasons import Reason
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import misconfigured
from flowbinding_worker.flows.processes.handle import Document
from flowbinding_worker.ports import ProcessingError


class FlowJson:
    """Reads it anew for each run, and parses it when it has changed.

    Args:
        flow: A flow with backend Local.
        files: Where ConfigMaps and the flow's volume are mounted.
    """

    def __init__(self, flow: Flow, files: Files) -> None:
        self._file = flow.file
        self._files = files
        self._raw = b""
        self._document: Document | None = None

    def current(self) -> Document:
        """The flow as the file has it now; the same object while it stays the same.

        Raises:
            ProcessingError: CONFIGURATION with reason ConfigMapMissing or FlowFileInvalid.
        """
        raw = self._read()
        if self._document is None or raw != self._raw:
            self._document = Document(self._parsed(raw))
            self._raw = raw
        return self._document

    def invalid(self, problem: str) -> ProcessingError:
        """Something is wrong with it."""
        return misconfigured(f"the flow {self.place} {problem}", Reason.FLOW_FILE_INVALID)

    @property
    def place(self) -> str:
        """Where it is, with the field that says so."""
        file = self._file
        if file is not None and file.config_map_key_ref is not None:
            ref = file.config_map_key_ref
            return f"{ref.key} of ConfigMap {ref.name} (spec.flow.file.configMapKeyRef)"
        if file is not None and file.persistent_volume_claim is not None:
            claim = file.persistent_volume_claim
            return (
                f"{claim.path} of PersistentVolumeClaim {claim.claim_name}"
                " (spec.flow.file.persistentVolumeClaim)"
            )
        return f"{file.path if file is not None else None} (spec.flow.file.path)"

    def _read(self) -> bytes:
        file = self._file
        if file is not None and file.config_map_key_ref is not None:
            return self._files.config_map(file.config_map_key_ref, "spec.flow.file.configMapKeyRef")
        path = Path((file.path if file is not None else None) or "")
        if file is not None and file.persistent_volume_claim is not None:
            path = self._files.flow_volume / file.persistent_volume_claim.path
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.invalid(f"cannot be read: {error.strerror} ({path})") from None

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self.invalid(f"is not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
            raise self.invalid(
                "has no object `data` at its top: export the flow from Langflow as it is"
            )
        return document
