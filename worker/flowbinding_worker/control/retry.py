"""When a failed message runs again. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flowbinding_api.spec import OnTimeout, Retry
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Failure, ProcessingError

MAX_THROTTLE_SECONDS = 300.0
"""Longest wait that a server may ask for."""
THROTTLES_PER_ATTEMPT = 10
"""So many throttled runs of a message cost it one attempt, ..."""
THROTTLE_SECONDS_PER_ATTEMPT = 60.0
"""... if it has waited so long because of them: an outage of a minute costs nothing."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter: uniform between 0 and a bound that doubles.

    Attributes:
        initial: Bound of the first wait in seconds.
        cap: Bound of every wait in seconds.
    """

    initial: float
    cap: float

    def delay(self, attempt: int, draw: float) -> float:
        """Seconds to wait after the `attempt`-th failure (from 1), for a `draw` from [0, 1)."""
        # 2.0 ** 1024 overflows, and no bound needs more.
        return draw * min(self.cap, self.initial * 2.0 ** min(attempt - 1, 64))


class RetryPolicy:
    """Decides what becomes of a failed message.

    Args:
        settings: `spec.retry`.
        draw: Source of randomness in [0, 1).
    """

    def __init__(self, settings: Retry, draw: random.Random | None = None) -> None:
        self._settings = settings
        self._most = settings.max_attempts
        self._backoff = Backoff(settings.initial_backoff_seconds, settings.max_backoff_seconds)
        self._draw = draw or random.Random()  # noqa: S311 - jitter, not a secret

    def delay(
        self, job: Job, error: ProcessingError, *, spared: bool, clock: float
    ) -> float | None:
        """Count the failure on the job, and say when it runs again.

        Args:
            job: Its counters are advanced.
            error: How it failed.
            spared: The flow fails for all messages, so that this one is not to blame.
            clock: Seconds of a clock that stands still while the flow fails for all: an outage of
                the flow must not use up the time that a message is given.

        Returns:
            Seconds from now; None when the message becomes a dead letter.
        """
        if job.failing_since is None:
            job.failing_since = clock
        if self._must_not_repeat(error):
            job.attempts += 1
            return None
        if error.failure is Failure.CONFIGURATION:
            return 0.0
        if error.failure is Failure.THROTTLE:
            delay = self._throttled(job, error, spared=spared)
        elif error.failure is Failure.TRANSIENT and spared:
            return 0.0
        else:
            delay = self._failed(job, error)
        return delay if spared else self._in_time(job, error, delay, clock)

    def letter(self, job: Job, error: ProcessingError) -> ProcessingError:
        """What the dead letter of a message says that failed with `error` in the end."""
        if not self._must_not_repeat(error):
            return error
        return ProcessingError(
            f"{error}; not tried again, as spec.retry.onTimeout is DeadLetter",
            failure=error.failure,
            stage=error.stage,
            reason="OutcomeUnknown",
            status=error.status,
            response=error.response,
            ran=error.ran,
            outcome_unknown=True,
        )

    def _must_not_repeat(self, error: ProcessingError) -> bool:
        return error.outcome_unknown and self._settings.on_timeout is OnTimeout.DEAD_LETTER

    def _failed(self, job: Job, error: ProcessingError) -> float | None:
        job.attempts += 1
        job.throttled = 0
        if error.failure is Failure.POISON or job.attempts >= self._most:
            return None
        return max(_asked(error), self._wait(job.attempts))

    def _throttled(self, job: Job, error: ProcessingError, *, spared: bool) -> float | None:
        job.throttled += 1
        if not spared:
            job.spent_throttles += 1
            enough = job.spent_throttles >= THROTTLES_PER_ATTEMPT
            if enough and job.spent_seconds >= THROTTLE_SECONDS_PER_ATTEMPT:
                # A message that quotes a rate limit in its own error must leave in the end.
                job.spent_throttles, job.spent_seconds = 0, 0.0
                job.attempts += 1
                if job.attempts >= self._most:
                    return None
        delay = max(_asked(error), self._wait(job.throttled))
        if not spared:
            job.spent_seconds += delay
        return delay

    def _in_time(
        self, job: Job, error: ProcessingError, delay: float | None, clock: float
    ) -> float | None:
        """The delay, cut to the time that is left; None when that is not enough."""
        most = self._settings.max_elapsed_seconds
        if most is None or delay is None or job.failing_since is None:
            return delay
        left = most - (clock - job.failing_since)
        if left <= 0 or _asked(error) > left:
            return None
        return min(delay, left)

    def _wait(self, failures: int) -> float:
        return self._backoff.delay(failures, self._draw.random())


def _asked(error: ProcessingError) -> float:
    """How long the server wants to be left alone, within reason."""
    return min(error.retry_after_seconds or 0.0, MAX_THROTTLE_SECONDS)
