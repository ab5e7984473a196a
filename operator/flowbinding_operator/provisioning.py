"""Makes the topics that bindings ask for (`spec.provisioning`): creates them, and grows them.

A topic is never deleted, made smaller or set up anew. It happens beside the reconcile, which only
looks at what has come of it: a cluster that does not answer must not hold up other bindings. What
Kafka refuses is asked for again less and less often.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import ClusterError, KafkaLink, Layout
from flowbinding_operator.kafka_admin import NewTopic, create_topics, grow_topics
from flowbinding_operator.lag import Trouble
from flowbinding_operator.topics import (
    EXISTS,
    NOTHING,
    PASSING,
    Provisioned,
    Wanted,
    plan,
    trouble_of,
)

log = structlog.get_logger(__name__)

CHECK_SECONDS = 300.0
"""How often it is looked whether all is still there."""
SPACING_SECONDS = 4.0
"""Of many bindings together, one has its topics looked at in so many seconds. The poller sees it
sooner when a topic is gone that is read, or that results go to."""
HURRY_SECONDS = 15.0
"""How soon after a look the next one may be: longer than the poller takes to see a new topic."""
FIRST_BACKOFF_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 300.0
TIMEOUT_SECONDS = 45.0
"""All requests of one attempt together."""
AT_ONCE = 16
"""Bindings of one cluster and set of credentials whose topics are looked at together: an operator
that starts looks at all."""


class Link(Protocol):
    """The requests of `KafkaLink` that are needed here."""

    async def close(self) -> None: ...  # noqa: D102
    async def layout(self, topics: Iterable[str]) -> Layout: ...  # noqa: D102
    async def ask_controller(self, request: Any) -> Any: ...  # noqa: D102


async def provision(wanted: Wanted, link: Link) -> Provisioned:
    """Bring topics to where they should be, once.

    Raises:
        ClusterError: The cluster does not answer.
    """
    layout = await link.layout(wanted.topics)
    counts = {name: len(layout.partitions([name])) for name in wanted.topics}
    todo = plan(wanted, counts, layout.troubles)
    troubles = [todo.trouble] if todo.trouble is not None else []
    if todo.create:
        new = [
            NewTopic(name, wanted.partitions, wanted.replication_factor, dict(wanted.config))
            for name in todo.create
        ]
        for answer in await create_topics(link.ask_controller, new):
            if answer.code not in (0, EXISTS):
                troubles.append(trouble_of(f"topic {answer.topic!r} cannot be created", answer))
            elif not answer.code:
                log.info("topic created", topic=answer.topic)
    if todo.grow:
        for answer in await grow_topics(link.ask_controller, todo.grow):
            count = todo.grow[answer.topic]
            if answer.code:
                text = f"topic {answer.topic!r} cannot be given {count} partitions"
                troubles.append(trouble_of(text, answer))
            else:
                log.info("partitions added", topic=answer.topic, partitions=count)
    return Provisioned(True, not troubles, troubles[0] if troubles else None, todo.note)


@dataclass(slots=True)
class _Entry:
    """A binding's topics, and when to look at them again."""

    wanted: Wanted
    cluster: str
    result: Provisioned
    due: float = float("-inf")
    looked: float = float("-inf")
    failures: int = 0
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Shared:
    """A link to a cluster, for as long as anybody uses it, or waits for a turn."""

    link: Link
    users: int = 0
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


class Provisioner:
    """All bindings' topics.

    Args:
        changed: Told the key of a binding for which there is something new.
        connect: Makes a link to a cluster from the client's options.
        clock: Steady seconds.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        *,
        connect: Callable[[Mapping[str, Any]], Link] = KafkaLink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changed = changed
        self._connect = connect
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._links: dict[str, _Shared] = {}

    def want(
        self, binding: FlowBinding, cluster: str, options: Callable[[], Mapping[str, Any]]
    ) -> Provisioned:
        """What has become of a binding's topics; work begins if it is due.

        Args:
            binding: The resolved binding, which asks for its topics.
            cluster: Identifies its Kafka cluster and the credentials.
            options: Gives the client's options.

        Raises:
            FlowBindingError: What `options` raises.
        """
        wanted = Wanted.of(binding)
        if not wanted.topics:
            self.forget(binding.key)
            return NOTHING
        entry = self._entries.get(binding.key)
        if entry is None or (entry.wanted, entry.cluster) != (wanted, cluster):
            self.forget(binding.key)
            entry = self._entries[binding.key] = _Entry(wanted, cluster, Provisioned(asked=True))
        if entry.task is None and self._clock() >= entry.due:
            # Should there be no options, as with broken certificates: not again at once.
            entry.due = self._clock() + FIRST_BACKOFF_SECONDS
            entry.task = asyncio.create_task(
                self._work(binding.key, entry, options()), name=f"provision {binding.key}"
            )
        return entry.result

    def hurry(self, key: str) -> None:
        """A topic of a binding is missing: look again soon, unless that has just been done."""
        entry = self._entries.get(key)
        if entry is not None and entry.result.done:
            entry.due = min(entry.due, entry.looked + HURRY_SECONDS)

    def next_look(self, key: str) -> float | None:
        """After how many seconds a binding's topics are to be looked at again, if at all."""
        entry = self._entries.get(key)
        if entry is None or entry.task is not None:
            return None
        return max(0.0, entry.due - self._clock())

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding, and what is being done for it."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    async def close(self) -> None:
        """End all work."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for key in list(self._entries):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: str, entry: _Entry, options: Mapping[str, Any]) -> None:
        before = entry.result
        try:
            async with self._link(entry.cluster, options) as link:
                found = await self._try(entry.wanted, link)
        finally:
            entry.task = None
        if found.trouble is None:
            # At random: all that have begun together would stay together.
            spaced = random.uniform(0.5, 1.5) * SPACING_SECONDS * len(self._entries)  # noqa: S311
            entry.failures, wait = 0, max(CHECK_SECONDS, spaced)
        else:
            wait = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(entry.failures, 16))
            entry.failures += 1
            if found.trouble != before.trouble:
                told = {"reason": found.trouble.reason, "error": found.trouble.message}
                log.warning("topics", binding=key, **told)
        # Topics that were there do not go because Kafka is away when they are looked at again.
        away = found.trouble is not None and found.trouble.reason in PASSING
        entry.result = before if away and before.done else found
        entry.looked = self._clock()
        entry.due = entry.looked + wait
        self._changed(key)

    @asynccontextmanager
    async def _link(self, cluster: str, options: Mapping[str, Any]) -> AsyncIterator[Link]:
        """A turn with the link that all share who look at a cluster at this time."""
        shared = self._links.get(cluster)
        if shared is None:
            shared = self._links[cluster] = _Shared(self._connect(options))
        shared.users += 1
        try:
            async with shared.limit:
                yield shared.link
        finally:
            shared.users -= 1
            if not shared.users:
                del self._links[cluster]
                await shared.link.close()

    async def _try(self, wanted: Wanted, link: Link) -> Provisioned:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await provision(wanted, link)
        except TimeoutError:
            # Nothing is known: should the topics be there, that is not to hide it.
            trouble = Trouble(Reason.KAFKA_UNREACHABLE, "Kafka did not answer in time")
        except ClusterError as error:
            trouble = error.trouble
        except Exception as error:
            # One cluster's answers must not leave its binding without any.
            log.exception("topics could not be looked at")
            trouble = Trouble(Reason.PROVISIONING_FAILED, repr(error))
        return Provisioned(asked=True, trouble=trouble)
