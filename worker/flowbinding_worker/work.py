"""The messages that a worker holds: of which partitions, and what is to be fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import structlog

from flowbinding_api.spec import FlowBindingSpec
from flowbinding_worker.control.flood import Floods
from flowbinding_worker.control.flow_control import FlowControl
from flowbinding_worker.control.retry import RetryPolicy
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.handover.inheritance import Inheritance
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import Batch
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition, ProcessingError
from flowbinding_worker.processing import Processor
from flowbinding_worker.runs import Runs
from flowbinding_worker.scheduler import MAX_BYTES, Scheduler
from flowbinding_worker.slots import Slots
from flowbinding_worker.tracker import MAX_UNFINISHED, Tracker
from flowbinding_worker.trouble import Trouble

log = structlog.get_logger(__name__)


class Work:
    """The messages of the assigned partitions, and the runs in flight.

    Args:
        spec: The binding's.
        processor: Processes a message.
        retry: Decides what becomes of a failed one.
        metrics: Counts.
        trouble: Where to say that the flow fails for all.
        partitions: How many partitions the topics have; for shares of what holds for all workers.
    """

    def __init__(
        self,
        spec: FlowBindingSpec,
        processor: Processor,
        retry: RetryPolicy,
        metrics: Metrics,
        trouble: Trouble,
        partitions: Callable[[], int],
    ) -> None:
        now = time.monotonic()
        self.trackers: dict[Partition, Tracker] = {}
        self.suspended: dict[Partition, Tracker] = {}
        """Of partitions that were taken away and may come back."""
        self.inheritance = Inheritance()
        self.control = FlowControl(spec.concurrency, spec.rate_limit, now)
        self.scheduler = Scheduler(spec.concurrency.ordering, self.control.slots)
        self.runs = Runs()
        self.ends: dict[Partition, int] = {}
        self._blocked: set[Partition] = set()
        self._floods = Floods(self.scheduler, trouble, enabled=spec.dead_letter.flood_guard)
        self.slots = Slots(
            self.scheduler,
            self.control,
            self._floods,
            self.runs,
            processor,
            retry,
            metrics,
            trouble,
            self._is_ours,
            lambda: self.inheritance.held,
        )
        self._partitions = partitions
        self._processor = processor
        self._metrics = metrics
        self._trouble = trouble

    @property
    def lag(self) -> int:
        """Messages of the assigned partitions that are not done, as far as known."""
        behind = (
            end - offset
            for partition, end in self.ends.items()
            if (tracker := self.trackers.get(partition)) is not None
            and (offset := tracker.committable) is not None
        )
        return sum(max(0, n) for n in behind)

    def wanted(self) -> dict[Partition, int]:
        """Partitions to fetch from, and how many messages of each at most."""
        if self.slots.deferred_bytes > MAX_BYTES:
            return {}
        rooms = {
            p: min(most, MAX_UNFINISHED - self.trackers[p].unfinished)
            for p, most in self.scheduler.wanted().items()
            if p not in self._blocked
        }
        return {p: room for p, room in rooms.items() if room > 0}

    def block(self, partition: Partition, reason: str, message: str) -> None:
        """Fetch nothing more of a partition in this assignment; what was fetched goes on."""
        if partition in self.trackers:
            self._blocked.add(partition)
            self._trouble.report(_part(partition), reason, message)

    def _unblock(self, partition: Partition) -> None:
        self._blocked.discard(partition)
        self._trouble.clear(_part(partition))

    def assign(
        self, trackers: Mapping[Partition, Tracker], incoming: Mapping[Partition, Incoming]
    ) -> None:
        """Begin with partitions; each tracker is the new epoch of its partition.

        Args:
            trackers: Where to begin.
            incoming: What earlier owners say of messages from there on, as far as known.
        """
        self.trackers.update(trackers)
        self.inheritance.begin(incoming)
        self.scheduler.assign(trackers)
        self._floods.forget(trackers)
        for partition, tracker in trackers.items():
            self._processor.committed(partition, tracker.committable or 0)
        self._share()
        self.slots.room.set()

    def accept(self, batch: Batch) -> None:
        """Track and queue what was fetched. Call `slots.dispatch` after it."""
        tracker = self.trackers.get(batch.partition)
        if tracker is None:
            return
        first = batch.records[0].offset if batch.records else batch.position
        if tracker.contradicts(first, batch.end):
            tracker = self._begin_anew(batch.partition, first)
        if batch.end is not None:
            self.ends[batch.partition] = batch.end
        for record in tracker.fetched(batch.records, batch.position):
            job = Job(record, tracker)
            if self.inheritance.admit(job, time.monotonic()) is Turn.DONE:
                self._inherited(job)
            else:
                self._queue(job)

    def reconsider(self, partition: Partition) -> None:
        """Earlier owners of a partition have said something new."""
        for job, turn in self.inheritance.reconsider(partition, time.monotonic()):
            if turn is Turn.DONE:
                self._inherited(job)
            else:
                self._metrics.handovers.labels("TakenOver").inc()
            self.scheduler.release(job)
        self.slots.dispatch()

    def _inherited(self, job: Job) -> None:
        """An earlier owner of the partition has finished a message."""
        job.tracker.complete(job.record.offset)
        self._metrics.handovers.labels("Finished").inc()

    def _queue(self, job: Job) -> None:
        """Let a message wait for its run, unless its result has waited on disk since a restart."""
        # While another worker runs it, what is here may be older than its result.
        stored = None if job.held else self._processor.stored(job.record)
        if stored is None:
            self.scheduler.add(job)
            return
        self.slots.resume(job, stored)

    def halt(self, partitions: Collection[Partition]) -> None:
        """Start nothing of partitions; what runs goes on and still counts."""
        self.scheduler.suspend(partitions)

    def suspend(self, partitions: Collection[Partition]) -> None:
        """Partitions are taken away, and may come back: nothing is committed for them any more."""
        self.halt(partitions)
        for partition in partitions:
            if (tracker := self.trackers.pop(partition, None)) is not None:
                self.suspended[partition] = tracker

    def resume(self, partitions: Collection[Partition]) -> None:
        """Partitions have come back before anybody else had them: go on where they were."""
        for partition in partitions:
            self.trackers[partition] = self.suspended.pop(partition)
            self._unblock(partition)
        self.scheduler.resume(partitions)
        self._share()
        self.slots.dispatch()

    def abandon(self, partitions: Collection[Partition]) -> None:
        """Partitions are somebody else's: what waits is dropped.

        What runs goes on, and counts as long as the tracker is not retired.
        """
        self.scheduler.revoke(partitions)
        for partition in partitions:
            self.inheritance.end(partition)
            self.trackers.pop(partition, None)
            self.suspended.pop(partition, None)
            self.ends.pop(partition, None)
            self._unblock(partition)
        self._floods.forget(partitions)
        self._share()

    def _share(self) -> None:
        """What this worker may do of what all may do together."""
        if not self.trackers:
            # Between two assignments; what is known of the server's limits would be lost.
            return
        self.control.share(len(self.trackers), self._partitions(), time.monotonic())

    def retire(self, partitions: Collection[Partition]) -> list[Tracker]:
        """End the epoch of partitions: whatever still happens to their messages has no effect.

        Returns:
            The trackers, for `Runs.cancel`.
        """
        found = [t for p in partitions for t in (self.trackers.get(p), self.suspended.get(p)) if t]
        for tracker in found:
            tracker.retire()
        self.abandon(partitions)
        return found

    async def close(self) -> None:
        """Stop writing results; those on disk stay there for a worker that starts again."""
        await self._processor.close()

    async def forget(self) -> None:
        """End the epoch of all partitions at once, running messages included."""
        await self.runs.cancel(self.retire(list(self.trackers)))

    def _is_ours(self, job: Job) -> bool:
        """Whether its partition is, or may be again as it was."""
        return job.tracker in (self.trackers.get(job.partition), self.suspended.get(job.partition))

    def trip(self, error: ProcessingError) -> None:
        """Open the circuit for a failure that was found without a message."""
        self.control.trip(error, time.monotonic())
        self.slots.report_circuit()

    def recovered(self) -> None:
        """What `trip` was called for is repaired. Nothing to do when a run has shown it before."""
        if self.control.is_open:
            self.control.recover(time.monotonic())
            self.slots.report_circuit()
            self.slots.dispatch()

    def _begin_anew(self, partition: Partition, offset: int) -> Tracker:
        """The partition's log is another than we knew: nothing known about it holds."""
        log.warning(
            "the partition was made anew or cut short: what was known of it is dropped",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
        )
        self._metrics.metadata_ignored.inc()
        self.trackers[partition].retire()
        self.runs.cancel_retired()
        self.inheritance.void(partition)
        self.scheduler.revoke([partition])
        tracker = Tracker()
        self.assign({partition: tracker}, {})
        return tracker


def _part(partition: Partition) -> str:
    """Names a partition in `Trouble`."""
    return f"partition {partition.topic}-{partition.partition}"
