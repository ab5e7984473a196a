"""A component of the testbed is started, seen to be ready, stopped, killed and replaced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import lifecycle, toolchain
from testbed.component import Component, Program
from testbed.errors import TestbedError
from testbed.kafka import KafkaBroker
from testbed.paths import Layout
from testbed.report import Report, duration
from testbed.state import State

RUNS = "import signal, sys; print('ready', flush=True); signal.pause()"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state.json")
    yield state
    lifecycle.stop_all(state, Layout(tmp_path))


@pytest.fixture
def make(state: State, tmp_path: Path) -> Callable[..., Component]:
    log = tmp_path / "etcd.log"

    def make(code: str = RUNS, *arguments: str) -> Component:
        program = Program(
            name="etcd",
            command=lambda: [sys.executable, "-c", code, *arguments],
            log=log,
            ready=lambda: log.exists() and "ready" in log.read_text(),
            prepare=lambda: log.unlink(missing_ok=True),
        )
        return Component(program, state)

    return make


def test_it_is_started_once(make: Callable[..., Component]) -> None:
    component = make()
    assert not component.running
    component.start()
    pid = component.pid
    make().start()

    assert component.ready
    assert make().pid == component.pid == pid


def test_it_is_stopped_and_started_again(make: Callable[..., Component], state: State) -> None:
    component = make()
    component.start()
    pid = component.pid
    component.restart()

    assert component.ready
    assert component.pid != pid
    component.kill()
    assert make().pid is None
    assert not make().ready
    assert not lifecycle.crashed(state)


def test_it_is_replaced_when_other_flags_are_wanted(make: Callable[..., Component]) -> None:
    make().start()
    assert make(RUNS, "--new-flag").outdated
    make(RUNS, "--new-flag").start()

    assert not make(RUNS, "--new-flag").outdated
    assert make().outdated


def test_a_program_that_ends_is_explained_by_its_log(make: Callable[..., Component]) -> None:
    with pytest.raises(TestbedError, match="etcd ended while it started") as caught:
        make("print('the reason')").start()

    assert "the reason" in caught.value.hint


def test_the_caller_s_settings_are_not_the_component_s(
    make: Callable[..., Component], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("KUBECONFIG", "/mine")
    monkeypatch.setenv("OTHER", "kept")
    names = "sorted({'HTTPS_PROXY', 'KUBECONFIG', 'OTHER'} & set(os.environ))"
    component = make(f"import os; print({names}); {RUNS}")
    component.start()

    assert component.log.read_text().startswith("['OTHER']")


def test_a_command_that_fails_shows_the_end_of_its_output() -> None:
    said: list[str] = []
    code = "import sys; print('step'); print('broken', file=sys.stderr); sys.exit(3)"
    with pytest.raises(TestbedError, match="no luck") as caught:
        toolchain.run([sys.executable, "-u", "-c", code], "no luck", said.append, hint="try again")

    assert said == ["step", "broken"]
    assert "broken" in caught.value.hint
    assert caught.value.hint.endswith("try again")


def test_steps_are_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Report() as report:
        with report.step("first") as step:
            step.note("half")
        with pytest.raises(RuntimeError), report.step("second"):
            raise RuntimeError

    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["✓ first", "✗ second"]


@pytest.mark.parametrize(("seconds", "text"), [(4.24, "4.2 s"), (376.9, "6 min 16 s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_broker_keeps_its_users_and_its_port(tmp_path: Path) -> None:
    first = KafkaBroker(tmp_path, sasl=True)
    again = KafkaBroker(tmp_path, sasl=True)

    assert again.users == first.users
    assert list(first.users) == ["client"]
    assert again.bootstrap == first.bootstrap
    assert first.protocol == "SASL_PLAINTEXT"
    assert first.ssl_context() is None
    with pytest.raises(TestbedError, match="no certificates"):
        _ = first.ca
