"""What the testbed remembers, and which processes it takes for its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import lifecycle, process
from testbed.errors import TestbedError
from testbed.paths import Layout
from testbed.process import Process
from testbed.state import PORTS, State, free_port
from testbed.waiting import wait_until

SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
GONE = Process(2**22 + 1, "some boot", 1, ("gone",))


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state.json")


def sleeper(tmp_path: Path) -> Process:
    log = tmp_path / "log"
    started = process.spawn(SLEEPER, log, dict(os.environ))
    wait_until(lambda: "up" in log.read_text(), what="the process runs")
    return started


def test_a_port_is_chosen_once(state: State) -> None:
    port = state.port("kafka")

    assert port in PORTS
    assert state.port("kafka") == State(state.path).port("kafka") == port
    assert state.port("other") != port


def test_ports_chosen_at_once_differ(state: State) -> None:
    names = [str(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        ports = list(pool.map(state.port, names * 2))

    assert len(set(ports)) == len(names)


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = set(PORTS) - {PORTS.start}

        assert free_port(taken=taken) == PORTS.start
    with pytest.raises(TestbedError, match="no free port"):
        free_port(taken=PORTS)


def test_a_broken_state_file_is_named(state: State) -> None:
    state.path.write_text("{")

    with pytest.raises(TestbedError, match=str(state.path)):
        state.get("ports")


def test_the_state_is_private(state: State) -> None:
    state.set("secret", "s3cret")

    assert state.path.stat().st_mode & 0o777 == 0o600


def test_a_process_is_found_again_and_ended(state: State, tmp_path: Path) -> None:
    state.record("sleeper", sleeper(tmp_path))
    found = State(state.path).process("sleeper")

    assert found is not None
    assert found.running
    assert found.end()
    assert not found.running


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
    log = tmp_path / "log"
    command = [sys.executable, "-c", f"{ignoring}; signal.pause()"]
    started = process.spawn(command, log, dict(os.environ))
    wait_until(lambda: "up" in log.read_text(), what="the process runs")

    assert not started.end(grace=0.05)
    assert not started.running


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "other"}, {"command": ("other",)}])
def test_a_process_with_the_same_number_is_left_alone(
    tmp_path: Path, change: dict[str, object]
) -> None:
    ours = sleeper(tmp_path)
    theirs = replace(ours, **change)  # type: ignore[arg-type]

    assert not theirs.running
    assert theirs.end(signal.SIGKILL)
    assert ours.running
    ours.end(signal.SIGKILL)


def test_a_program_that_cannot_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="cannot start"):
        process.spawn([str(tmp_path / "missing")], tmp_path / "log", {})


def test_a_crash_is_processes_that_are_gone_without_having_been_stopped(
    state: State, tmp_path: Path
) -> None:
    assert not lifecycle.crashed(state)
    state.record("etcd", GONE)
    assert lifecycle.crashed(state)
    state.record("kafka", sleeper(tmp_path))
    assert not lifecycle.crashed(state)
    lifecycle.stop_all(state, Layout(tmp_path))
    assert not lifecycle.crashed(state)


@pytest.mark.parametrize("taken", [False, True])
def test_a_crashed_testbed_keeps_its_addresses_if_they_are_free(
    state: State, tmp_path: Path, taken: bool
) -> None:
    state.record("etcd", GONE)
    port = state.port("kafka")
    data = Layout(tmp_path).data / "etcd"
    data.mkdir(parents=True)
    with socket.socket() as other:
        if taken:
            other.bind(("127.0.0.1", port))
            other.listen()
        lifecycle.clean(state, Layout(tmp_path))

    assert not data.exists()
    assert not state.processes()
    assert state.get("ports") == ({} if taken else {"kafka": port})


def test_after_a_failed_start_nothing_new_is_left(state: State, tmp_path: Path) -> None:
    kept = sleeper(tmp_path)
    state.record("kafka", kept)

    def start() -> None:
        state.record("etcd", sleeper(tmp_path))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        lifecycle.all_or_nothing(state, [start, lambda: None])

    assert list(state.processes()) == ["kafka"]
    assert kept.running
    kept.end(signal.SIGKILL)


def test_down_removes_its_own_files_only(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "bed")
    State(layout.state).set("kubernetes", False)
    (layout.root / "mine.txt").touch()

    lifecycle.remove(layout)
    lifecycle.remove(layout)

    assert [path.name for path in layout.root.iterdir()] == ["mine.txt"]


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "bed")
    lifecycle.require_marker(layout)
    layout.root.mkdir()
    lifecycle.require_marker(layout)
    (layout.root / "mine.txt").touch()

    with pytest.raises(TestbedError, match="neither empty nor a testbed"):
        lifecycle.require_marker(layout)


def test_waiting_explains_what_it_waited_for() -> None:
    with pytest.raises(TestbedError, match="the moon is full") as caught:
        wait_until(lambda: False, what="the moon is full", timeout=0, explain=lambda: "it is not")

    assert caught.value.hint == "it is not"
