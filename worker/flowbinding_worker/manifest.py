"""The manifest that a worker runs: read, overridden by the environment, and checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbinding_api import FlowBinding, InvalidBindingError, Problem, parse_binding, read_document
from flowbinding_api.resolve import with_overrides

STDIN = "-"


def read_manifest(file: str | None, environment: Mapping[str, str]) -> FlowBinding:
    """The binding to run.

    Args:
        file: Path of the manifest; `-` for standard input.
        environment: Where overrides are.

    Raises:
        InvalidBindingError: Naming everything that is wrong, an unreadable file included.
    """
    document = with_overrides(read_document(_text(file)), environment)
    problems = []
    try:
        binding = parse_binding(document)
        if binding.spec.kafka.bootstrap_servers is not None or not binding.needs_kafka:
            return binding
    except InvalidBindingError as error:
        problems = error.problems
    # Whether a schedule needs Kafka is not known before it parses.
    known = not problems or not _scheduled(document)
    if known and not _has_brokers(document):
        problems.append(Problem("spec.kafka.bootstrapServers", "required by a worker"))
    raise InvalidBindingError(problems)


def check_once(binding: FlowBinding, *, once: bool) -> None:
    """Whether a binding can be run the way that the command line says.

    Raises:
        InvalidBindingError: A schedule needs --once, and topics do not go with it.
    """
    if once and binding.spec.source.schedule is None:
        text = "--once runs a schedule; without it the worker consumes topics until it is stopped"
        raise InvalidBindingError([Problem("spec.source.schedule", text)])
    if not once and binding.spec.source.schedule is not None:
        text = "a schedule is kept by its CronJob; --once runs its message now"
        raise InvalidBindingError([Problem("spec.source.schedule", text)])


def _text(file: str | None) -> str:
    if not file:
        raise InvalidBindingError([Problem("--file", "required, or FLOWBINDING_FILE; - is stdin")])
    try:
        return sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "not UTF-8"
        raise InvalidBindingError([Problem("--file", f"cannot read {file}: {what}")]) from None


def _scheduled(document: Any) -> bool:
    try:
        return document["spec"]["source"]["schedule"] is not None
    except (KeyError, TypeError):
        return False


def _has_brokers(document: Any) -> bool:
    try:
        return document["spec"]["kafka"]["bootstrapServers"] is not None
    except (KeyError, TypeError):
        return False
