"""What was decided, why, and from what."""

from __future__ import annotations

from dataclasses import dataclass

from flowbinding_api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, why, and from what.

    Attributes:
        replicas: What should run; None: leave it as it is, nothing is known.
        reason: What decided.
        limited: The bound that kept it from wanting more, if one did.
        wanted: The need before damping (up).
        floor: The need before damping (down); not below `wanted` where that is more than run.
        needed: The need before bounds and damping.
        asked: What asks for that many, whatever the bounds and damping make of it.
        recommended: What mode Lag would have run, whatever the mode; None while unknown.
        lag: Messages that are not committed.
        arrival_rate: Messages a second that arrive.
        demand_rate: Messages a second that the workers have to do.
        rate_per_replica: Messages a second that one worker does.
        seconds_per_message: Seconds of one run.
        partitions: Partitions of all topics.
        stalled: Partitions that do not move, and are not scaled for.
        hot: The partition that asks for more than one worker can do, as an index.
        lowest: The lower bound in force: minReplicas, or a schedule's.
        highest: The upper bound in force: maxReplicas, or a schedule's.
    """

    replicas: int | None
    reason: Reason
    limited: Reason | None = None
    wanted: int | None = None
    floor: int | None = None
    needed: int | None = None
    asked: Reason | None = None
    recommended: int | None = None
    lag: int | None = None
    arrival_rate: float | None = None
    demand_rate: float | None = None
    rate_per_replica: float | None = None
    seconds_per_message: float | None = None
    partitions: int | None = None
    stalled: tuple[int, ...] = ()
    hot: int | None = None
    lowest: int | None = None
    highest: int | None = None
