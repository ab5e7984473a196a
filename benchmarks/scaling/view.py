"""What a scaling policy sees, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class View:
    """What a policy may see.

    Attributes:
        ends: End offset by partition.
        committed: Committed offset by partition, as of the last commit.
        done: The same and what is done beyond, as commit metadata tells.
        seconds: Mean seconds of a run as workers report it; None before the first.
        busy: Share of the slots of ready workers in use.
        known: Whether Kafka answered.
    """

    time: float
    ends: tuple[int, ...]
    committed: tuple[int, ...]
    done: tuple[int, ...]
    completed: int
    seconds: float | None
    busy: float
    ready: int
    desired: int
    known: bool

    @property
    def lag(self) -> int:
        return sum(self.ends) - sum(self.committed)


class Policy(Protocol):
    """A scaling policy: asked every `period` seconds."""

    period: float

    def step(self, view: View) -> int | None: ...
