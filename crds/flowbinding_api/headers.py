"""Names of the headers that workers give to results and dead letters."""

from __future__ import annotations

CONNECT_PREFIX = "__connect.errors."
"""Kafka Connect's names."""
SPRING_PREFIX = "kafka_dlt-"
"""Spring's names, whose numbers are big-endian bytes (`deadLetter.headerStyle`)."""
OWN_PREFIX = "flowbinding-"
"""What neither has a word for."""
PREFIXES = (CONNECT_PREFIX, SPRING_PREFIX, OWN_PREFIX)

RESULT_BINDING = f"{OWN_PREFIX}binding"
RESULT_SOURCE = f"{OWN_PREFIX}source"


def is_ours(name: str) -> bool:
    """Whether a header is one that dead letters and results are given."""
    return name.startswith(PREFIXES)
