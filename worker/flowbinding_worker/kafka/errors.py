"""What aiokafka's errors mean for a consumer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import (
    CommitFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from flowbinding_api.reasons import Reason
from flowbinding_worker.kafka.port import ConsumerBrokenError, KafkaUnavailableError


@contextmanager
def translated() -> Iterator[None]:
    """Turn aiokafka's errors into ours, by what they mean.

    Raises:
        KafkaUnavailableError: It was not possible; `reason` says when it is not allowed.
        ConsumerBrokenError: aiokafka's consumer has failed for good.
        KafkaError: A commit that failed, a call at the wrong time or a record that cannot be read:
            what they mean depends on what was tried.
    """
    try:
        yield
    except (CommitFailedError, IllegalStateError, CorruptRecordException):
        raise
    except TopicAuthorizationFailedError as error:
        raise KafkaUnavailableError(
            f"not authorized for topic {error}", reason=Reason.TOPIC_UNAUTHORIZED
        ) from None
    except GroupAuthorizationFailedError as error:
        raise KafkaUnavailableError(
            f"not authorized for consumer group {error}", reason=Reason.KAFKA_UNAUTHORIZED
        ) from None
    except (KafkaError, TimeoutError, OSError) as error:
        raise _other(error) from None


def _other(error: BaseException) -> KafkaUnavailableError | ConsumerBrokenError:
    """Any other failure of Kafka; the coordinator's own failure is final."""
    text = str(error) or type(error).__name__
    if "Unexpected error during" in text or "Unexpected exception in heartbeat" in text:
        return ConsumerBrokenError(text)
    return KafkaUnavailableError(text)
