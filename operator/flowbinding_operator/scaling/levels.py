"""Which numbers of workers are worth having: partitions are assigned whole."""

from __future__ import annotations

import math

from flowbinding_api.scaling import PartitionAlignment

SLACK = 1e-9
"""Against what floating-point division adds."""


def level(
    demand: float,
    rate: float,
    partitions: int,
    alignment: PartitionAlignment = PartitionAlignment.BALANCED,
) -> int:
    """The smallest count of workers that meets a demand.

    More than one worker for a partition does not exist, but the answer may exceed the partitions:
    it then says how many would be needed, and the caller sees that a bound was hit.

    Args:
        demand: Messages a second, spread evenly over the partitions.
        rate: Messages a second that one worker does.
        partitions: How many there are.
        alignment: Which counts come into question.
    """
    if demand <= 0 or partitions <= 0:
        return 0
    plain = math.ceil(demand / rate - SLACK)
    if alignment is PartitionAlignment.NONE or plain > partitions:
        return plain
    if alignment is PartitionAlignment.EXACT:
        return next(n for n in range(plain, partitions + 1) if partitions % n == 0)
    each = math.floor(partitions * rate / demand + SLACK)
    return holding(each, partitions)


def holding(each: int, partitions: int) -> int:
    """The smallest count of workers of which none holds more than `each` partitions."""
    return math.ceil(partitions / max(1, each))


def beyond(workers: int, partitions: int) -> int:
    """The next count that does more: of workers of which none holds as many as the busiest now."""
    return holding(math.ceil(partitions / max(1, workers)) - 1, partitions)
