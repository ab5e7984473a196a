"""Settings, the command line, the pages for probes, and the check of the watches."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest
from pydantic_settings import CliApp

from flowbinding_operator import logs, main
from flowbinding_operator.app import App
from flowbinding_operator.http import application, serving
from flowbinding_operator.kube import KubeClient, KubeError
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.settings import Settings
from flowbinding_operator.store import Cache, key_of
from flowbinding_operator.watchdog import Watchdog
from operator_fakes import FakeKube, Object


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBINDING_OPERATOR_NAMESPACES", "a, b")
    monkeypatch.setenv("FLOWBINDING_OPERATOR_POLL_SECONDS", "9")
    monkeypatch.setenv("FLOWBINDING_OPERATOR_WORKER_IMAGE_PULL_POLICY", "")
    monkeypatch.setenv("FLOWBINDING_OPERATOR_KAFKA", '{"bootstrapServers": "k:1"}')
    settings = CliApp.run(Settings, cli_args=["--poll-seconds", "3"])
    assert settings.namespaces == ("a", "b")
    assert settings.poll_seconds == 3
    assert settings.worker_image_pull_policy is None
    assert settings.default_kafka.bootstrap_servers == "k:1"


def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["run", "--poll-seconds", "never"])
    assert caught.value.code == 2
    assert "poll" in capsys.readouterr().err


@pytest.mark.parametrize("lease", ["operator", "a/b/c", "/b", "a/"])
def test_a_lease_needs_a_namespace_and_a_name(
    lease: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["run", "--lease", lease])
    assert caught.value.code == 2
    assert "lease: Value error, expected namespace/name" in capsys.readouterr().err


def test_without_kubernetes_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def connect() -> KubeClient:
        raise KubeError("no service account and no usable kubeconfig")

    monkeypatch.setattr(KubeClient, "connect", connect)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main.main(["run"])
    assert caught.value.code == 1


async def test_names_that_are_not_found_for_long_leave_threads_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect() -> KubeClient:
        raise KubeError("not here")

    monkeypatch.setattr(KubeClient, "connect", connect)
    with pytest.raises(KubeError):
        await main.run(Settings())
    together = threading.Barrier(40)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, together.wait, 5) for _ in range(40)))


def test_kopf_writes_nothing() -> None:
    settings = main.kopf_settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True


async def test_pages() -> None:
    problems: list[str] = []
    app = application(lambda: problems, lambda: ["not started yet"], Metrics().registry)
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}"
        assert (await client.get(f"{url}/livez")).status_code == 200
        assert (await client.get(f"{url}/readyz")).status_code == 500
        assert "flowbinding_operator_bindings 0.0" in (await client.get(f"{url}/metrics")).text
        chosen = {"name[]": ["process_cpu_seconds_total", "flowbinding_operator_leader"]}
        some = (await client.get(f"{url}/metrics", params=chosen)).text
        series = [line.split()[0] for line in some.splitlines() if not line.startswith("#")]
        assert sorted(series) == sorted(chosen["name[]"])
        problems.append("the lag loop of k:1 makes no progress")
        answer = await client.get(f"{url}/livez")
        assert (answer.status_code, answer.text.strip()) == (500, problems[0])


def item(name: str, version: int) -> Object:
    return {"metadata": {"namespace": "n", "name": name, "resourceVersion": str(version)}}


def test_a_watch_that_is_only_late_is_not_dead() -> None:
    cache = Cache()
    dog = Watchdog("FlowBindings", cache, key_of)
    dog.compare([item("a", 1)])
    assert dog.problem == ""
    cache.put("n/a", item("a", 1))
    dog.compare([item("a", 2)])
    cache.put("n/a", item("a", 2))
    dog.compare([item("a", 2)])
    assert dog.problem == ""


def test_what_a_dead_watch_misses_is_found_the_second_time() -> None:
    cache = Cache()
    dog = Watchdog("FlowBindings", cache, key_of)
    cache.put("n/gone", item("gone", 1))
    dog.compare([item("new", 5)])
    assert dog.problem == ""
    dog.compare([item("new", 5)])
    assert "n/gone" in dog.problem


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.put("n/a", item("a", 5))
    assert not cache.put("n/a", item("a", 4))
    assert not cache.put("n/a", item("a", 5))
    assert cache.put("n/a", item("a", 6))


async def test_a_dead_background_task_ends_the_process() -> None:
    app = App(Settings(), FakeKube())
    app.lag._failed(ZeroDivisionError("a lag loop"))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            await app.run(asyncio.sleep(3600))


async def test_a_watch_that_ends_by_an_error_ends_the_process() -> None:
    async def watch() -> None:
        raise KubeError("410 for ever")

    with pytest.raises(KubeError):
        async with asyncio.timeout(5):
            await App(Settings(), FakeKube()).run(watch())


async def test_a_stale_queue_and_a_stale_lag_loop_fail_the_liveness_probe() -> None:
    app = App(Settings(), FakeKube())
    assert app.problems() == []
    assert app.unready() == ["not started yet"]
    app.queue.last_progress -= 3600
    assert app.problems() == ["the work queue makes no progress"]
