"""Delivers records through transactions; takes the place of `outbox` in exactly-once output.

Nothing is written here: results and dead letters wait in memory for the next transaction of their
partition. What is lost with the worker runs again, and nobody has seen it; so there is no spool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Stored
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.job import Job
from flowbinding_worker.transactions.exactly_once import Transactions
from flowbinding_worker.transactions.lane import Waiting


class TransactionOutbox:
    """Delivers the records of one kind.

    Args:
        transactions: Write them.
        smaller: What to write of a record, from all of it to the least, if its size is refused.
        too_large: Makes the error of a record of which even the least is refused; None: that is
            tried for ever.
    """

    def __init__(
        self,
        transactions: Transactions,
        smaller: Callable[[Message], Iterable[Message]],
        too_large: Callable[[Message], Exception] | None,
    ) -> None:
        self._transactions = transactions
        self._smaller = smaller
        self._too_large = too_large

    def submit(self, job: Job, message: Message, reason: str = "") -> Delivery:
        """Deliver a record; `Delivery.done` tells when it is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        records = deque(self._smaller(message))
        self._transactions.put(Waiting(job, records, done, self._too_large))
        return Delivery(job, message.topic, None, done, reason=reason)

    def resume(self, job: Job, stored: Stored) -> Delivery:
        """Never called: nothing is ever on disk."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to do: `Transactions.stop` drops what waits."""
