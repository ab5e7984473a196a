"""What keeps the worker from working, as one word and one sentence for the operator and the log."""

from __future__ import annotations

import structlog

from flowbinding_worker.redaction import redact

log = structlog.get_logger(__name__)


class Trouble:
    """The troubles of the worker's parts; each change is logged once.

    A part is a word such as `flow` or `output`. `version` counts the changes.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[str, str]] = {}
        self._noted = ("", "")
        self.version = 0

    @property
    def reason(self) -> str:
        """CamelCase word of the oldest trouble; empty when there is none."""
        return next(iter(self._parts.values()), self._noted)[0]

    @property
    def message(self) -> str:
        """One sentence to go with `reason`."""
        return next(iter(self._parts.values()), self._noted)[1]

    def note(self, reason: str, message: str) -> None:
        """Something works, but not as it should: told while there is no trouble, for good."""
        self._noted = (reason, redact(message))
        self.version += 1
        log.warning("note", reason=reason, message=self._noted[1])

    def report(self, part: str, reason: str, message: str) -> None:
        """A part cannot work. Nothing happens when the same was reported before."""
        message = redact(message)
        if self._parts.get(part) == (reason, message):
            return
        self._parts[part] = (reason, message)
        self.version += 1
        log.warning("trouble", part=part, reason=reason, message=message)

    def clear(self, part: str) -> None:
        """A part works."""
        if self._parts.pop(part, None) is not None:
            self.version += 1
            log.info("trouble is over", part=part)
