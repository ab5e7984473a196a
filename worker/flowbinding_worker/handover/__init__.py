"""How a worker that loses partitions hands over the messages that it is still running.

A worker that loses a partition lets its running calls go on and writes, in a place of Kafka that
all workers of the group read, which messages those are; the next owner starts everything else at
once and takes each of these when it is over. The places, called registers, are committed offsets'
metadata in helper groups that nobody joins; `docs/decisions/0009` has the reasons and the proof.

`entry` is what a register holds, `outgoing` is the worker that loses a partition, `incoming` and
`inheritance` the one that gets it; they are pure. `registers` reads and writes, `listening` knows
when to read, `rebalance` when to say what, and `offsets` is Kafka.
"""

LANES = 4
"""Registers of one partition: as many owners in a row may have calls running at the same time."""

BEAT_SECONDS = 2.0
"""How often a worker renews what it says about running messages."""

FENCE_SECONDS = 10.0
"""A worker that could not say for so long that it is alive writes nothing for them any more."""

LEASE_SECONDS = 15.0
"""A worker that has not said for so long that it is alive is taken for dead; longer than
`FENCE_SECONDS` by what a write under way may still take."""
