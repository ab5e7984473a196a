"""Fixtures of the worker's unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from broker_fakes import FakeBroker
from flowbinding_worker import committer, engine
from flowbinding_worker.control import circuit
from flowbinding_worker.control.retry import Backoff


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """As workers write them: rich's pictures of them take a second each on a busy machine."""
    if not structlog.is_configured():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    """An empty broker, and an engine that waits for nothing long.

    At its end no commit may have passed a message that was not finished.
    """
    monkeypatch.setattr(committer, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(committer, "FIGURES_SECONDS", 0.05)
    monkeypatch.setattr(committer, "COMMIT_SECONDS", 0.2)
    monkeypatch.setattr(engine, "_BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(engine, "HEAL_SECONDS", 0.02)
    monkeypatch.setattr("flowbinding_worker.delivery.outbox._BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(circuit, "FIRST_PROBE_SECONDS", 0.02)
    monkeypatch.setattr(circuit, "MAX_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(circuit, "MAX_PROBE_SECONDS_TRANSIENT", 0.05)
    broker = FakeBroker()
    yield broker
    assert broker.lost == []


@pytest.fixture
def quick_handover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that hand over do not wait long either."""
    monkeypatch.setattr("flowbinding_worker.handover.rebalance.TELL_SECONDS", 0.01)
    monkeypatch.setattr("flowbinding_worker.handover.listening.ASK_SECONDS", 0.01)
    monkeypatch.setattr("flowbinding_worker.handover.rebalance.AGAIN_SECONDS", 0.05)
