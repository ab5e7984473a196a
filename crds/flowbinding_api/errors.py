"""The error root.

Every error that FlowBinding raises on purpose is a `FlowBindingError`. Its `reason` is the
CamelCase word that users meet again as a condition reason, an Event reason and a metric label;
`retriable` says whether trying again later may help without anybody changing anything.
"""

from __future__ import annotations

from dataclasses import dataclass


class FlowBindingError(Exception):
    """A failure with a machine-readable reason.

    Args:
        message: One sentence for a person: what is wrong, with which field, and what to do.
        reason: CamelCase, at most 64 characters; defaults to the class's own.
        retriable: Whether the same attempt may succeed later by itself.
    """

    reason: str = "Error"
    retriable: bool = False

    def __init__(
        self, message: str, *, reason: str | None = None, retriable: bool | None = None
    ) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        if retriable is not None:
            self.retriable = retriable


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a manifest.

    Attributes:
        path: Dotted path of the field as the user writes it, e.g. `spec.flow.url`.
        message: What is wrong and what is expected.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidBindingError(FlowBindingError):
    """A manifest that breaks the API's rules; `problems` lists every one of them."""

    reason = "InvalidSpec"

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))
