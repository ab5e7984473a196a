"""Probes, metrics, figures and logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import aiohttp
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.worker import LogLevel
from flowbinding_worker import health, logs
from flowbinding_worker.figures import Busy, Mean
from flowbinding_worker.metrics import Metrics
from testbed.state import free_port


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_probes_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    port, metrics, ready = free_port(), Metrics(), False
    metrics.messages.labels("succeeded").inc(3)
    metrics.gauge("in_flight", "Slots in use.", lambda: 7)
    async with health.serving("127.0.0.1", port, metrics, lambda: ready):
        assert await fetch(port, "/livez") == (200, "ok\n")
        assert (await fetch(port, "/readyz"))[0] == 503
        ready = True
        assert (await fetch(port, "/readyz"))[0] == 200
        _, text = await fetch(port, "/metrics")
        assert 'flowbinding_worker_messages_total{outcome="succeeded"} 3.0' in text
        assert "flowbinding_worker_in_flight 7.0" in text
        assert 'flowbinding_worker_build_info{version="' in text
        monkeypatch.setattr(health, "MAX_LAG_SECONDS", 0.0)
        assert (await fetch(port, "/livez"))[0] == 503


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100)), max_size=20))
def test_the_busy_share_is_a_share(changes: list[tuple[int, float]]) -> None:
    now = 0.0
    busy = Busy(now)
    for used, seconds in changes:
        busy.change(used, 4, now)
        now += seconds
        assert 0 <= busy.share(now) <= 1


def test_busy_follows_and_fades() -> None:
    busy = Busy(0.0)
    busy.change(4, 4, 0.0)
    assert busy.share(60.0) > 0.99
    busy.change(0, 4, 60.0)
    assert busy.share(120.0) < 0.01


def test_mean() -> None:
    mean = Mean()
    assert mean.value is None
    for _ in range(3):
        mean.add(2.0)
    assert mean.value == pytest.approx(2.0)
    mean.add(12.0)
    assert mean.value == pytest.approx(3.0)


@pytest.fixture
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    root.handlers = before
    root.setLevel(level)
    for name in ("aiokafka", "flowbinding_worker"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored")
def test_logs_are_json_and_libraries_say_the_same_only_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(LogLevel.INFO)
    structlog.get_logger("flowbinding_worker.test").info("hello", offset=3)
    structlog.get_logger("flowbinding_worker.test").debug("a payload")
    for _ in range(3):
        logging.getLogger("aiokafka.client").error("Unable connect to %s", "kafka")
    logging.getLogger("aiokafka.client").info("chatter")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "Unable connect to kafka"]
    assert lines[0]["offset"] == 3
    assert lines[1]["logger"] == "aiokafka.client"


@pytest.mark.usefixtures("_restored")
def test_libraries_keep_their_requests_to_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogLevel.DEBUG)
    structlog.get_logger("flowbinding_worker.test").debug("ours")
    logging.getLogger("aiokafka.conn").debug("a request with a password")
    assert "ours" in (text := capsys.readouterr().err)
    assert "password" not in text
