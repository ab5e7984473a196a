"""What this process is for: it leads, with all its parts at work, or it stands by.

Each term of office has an `App` of its own: what an earlier one knew may be long out of date, and
starting from nothing is what the operator does after every restart anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from flowbinding_operator.app import App
from flowbinding_operator.kube import Kube
from flowbinding_operator.leader import Leader
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.settings import Settings


class Duty:
    """Terms of office, one after another.

    Args:
        settings: The administrator's.
        kube: For everything but the election.
        metrics: Of the process; series of bindings end with each term.
        watch: Runs the watches of an `App`.
        leader: The election; None when there is none, and this process always leads.
    """

    def __init__(
        self,
        settings: Settings,
        kube: Kube,
        metrics: Metrics,
        watch: Callable[[App], Awaitable[None]],
        leader: Leader | None,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._metrics = metrics
        self._watch = watch
        self._leader = leader
        self._app: App | None = None

    async def run(self) -> None:
        """Run until a term ends by itself, or by an error.

        Raises:
            Exception: Whatever ended it.
        """
        if self._leader is None:
            self._metrics.leader.set(1)
            await self._term()
        else:
            await self._leader.run(self._term)

    def problems(self) -> list[str]:
        """What makes this process not worth keeping."""
        election = self._leader.problems() if self._leader else []
        return [*election, *(self._app.problems() if self._app else [])]

    def unready(self) -> list[str]:
        """What keeps it from leading or standing in; standing by itself does not."""
        if self._app is not None:
            election = self._leader.problems() if self._leader else []
            return [*election, *self._app.unready()]
        standing_by = self._leader.unready() if self._leader else ["not started yet"]
        return [*self.problems(), *standing_by]

    async def _term(self) -> None:
        self._app = App(self._settings, self._kube, self._metrics)
        try:
            await self._app.run(self._watch(self._app))
        finally:
            self._app = None
            self._metrics.clear()
