"""The processes of Local flows: real ones, with an engine that needs no lfx."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flowbinding_worker.flows.processes import fork, pool
from flowbinding_worker.flows.processes.child import Fault
from flowbinding_worker.flows.processes.fork import EngineMissingError, Forks
from flowbinding_worker.flows.processes.handle import LoadError, ProcessEndedError, RunError
from process_bench import Bench, document, gone

TESTS = Path(__file__).parents[1]
# One template for all: the event loop that it belongs to lives as long.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def forks() -> AsyncIterator[Forks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("FLOWBINDING__KAFKA__SASL", "secret")
        patch.setenv("OPENAI_API_KEY", "for flows")
        patch.setattr(pool, "KILL_AFTER_SECONDS", 1.0)
        forks = Forks("local_stand_in")
        await forks.start()
        yield forks
        await forks.close()
        # What is left are the last words of its processes.
        await asyncio.gather(
            *(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True
        )


async def test_runs_at_once_are_not_mixed_and_share_the_processes(forks: Forks) -> None:
    bench = Bench(forks, most=2)
    answers = await asyncio.gather(*(bench.run(f"text {n}") for n in range(50)))
    assert answers == [f"n: text {n}" for n in range(50)]
    assert len(set(await asyncio.gather(*(bench.pid() for _ in range(10))))) == 2


async def test_there_are_threads_for_blocking_components(forks: Forks) -> None:
    bench = Bench(forks, threads=8)
    # They wait for each other, although this machine's default pool may be smaller.
    assert await asyncio.gather(*(bench.run("meet") for _ in range(8))) == ["n: meet"] * 8


async def test_a_coroutine_that_takes_too_long_ends_and_its_process_goes_on(forks: Forks) -> None:
    bench = Bench(forks)
    before = await bench.pid()
    with pytest.raises(RunError) as raised:
        await bench.run("sleep 600", seconds=0.05)
    assert (raised.value.fault, raised.value.stuck) == (Fault.TIMEOUT, False)
    assert await bench.pid() == before


async def test_a_thread_that_takes_too_long_costs_its_process_but_no_other_run(
    forks: Forks,
) -> None:
    bench = Bench(forks)
    before = await bench.pid()
    other = await bench.begin("sleep 0.5")
    with pytest.raises(RunError) as raised:
        await bench.run("thread 600", "slow", seconds=0.1)
    assert (raised.value.fault, raised.value.stuck) == (Fault.TIMEOUT, True)
    assert await bench.pid() != before
    assert await other == "n: sleep 0.5"
    await gone(before)


async def test_a_process_that_is_blocked_is_killed_and_its_messages_run_alone_next(
    forks: Forks,
) -> None:
    bench = Bench(forks)
    before = await bench.pid()
    other = await bench.begin("sleep 600", "other")
    with pytest.raises(RunError) as raised:
        await bench.run("block 600", "slow", seconds=0.1)
    assert raised.value.fault is Fault.TIMEOUT
    with pytest.raises(ProcessEndedError, match="was stopped, as another run in it did not end"):
        await other
    await gone(before)
    shared = await bench.pid()
    alone = [await bench.pid("other"), await bench.pid("slow")]
    assert len({before, shared, *alone}) == 4
    await gone(*alone)
    assert await bench.pid("other") == shared, "it did well alone"


@pytest.mark.parametrize(
    ("does", "how"),
    [
        ("exit 3", "the process that ran the flow ended with exit code 3"),
        ("segfault", "the process that ran the flow was killed by SIGSEGV"),
        # As the kernel does when memory runs out.
        ("killed", r"was killed by SIGKILL \(out of memory, or killed from outside\)$"),
    ],
)
async def test_a_crash_costs_the_runs_of_its_process_once(
    forks: Forks, does: str, how: str
) -> None:
    bench = Bench(forks)
    await bench.pid()
    other = await bench.begin("sleep 600", "other")
    with pytest.raises(ProcessEndedError, match=how):
        await bench.run(does, "bad")
    with pytest.raises(ProcessEndedError, match=how):
        await other
    healthy = await bench.begin("sleep 0.4")
    with pytest.raises(ProcessEndedError, match=how):
        await bench.run(does, "bad")
    assert await bench.run("hi", "other") == "n: hi"
    assert await healthy == "n: sleep 0.4", "the second crash was alone"


async def test_a_process_that_ends_by_itself_is_not_asked_again(forks: Forks) -> None:
    bench = Bench(forks, most=2)
    for _ in range(3):
        os.kill(await bench.pid(), signal.SIGKILL)
        answers = await asyncio.gather(
            *(bench.run(f"text {n}", seconds=5) for n in range(4)), return_exceptions=True
        )
        assert all(isinstance(it, ProcessEndedError | str) for it in answers)
    assert await bench.run("x") == "n: x"


async def test_a_process_is_replaced_after_so_many_runs_or_so_much_growth(forks: Forks) -> None:
    bench = Bench(forks, max_runs=2)
    pids = [await bench.pid() for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    await gone(*pids)
    bench = Bench(forks, max_growth=64 * 1024 * 1024)
    before = await bench.pid()
    assert await bench.pid() == before
    await bench.run(f"grow {80 * 1024 * 1024}")
    assert await bench.pid() != before
    await gone(before)


async def test_a_run_that_wants_too_much_memory_fails_alone(forks: Forks) -> None:
    mebibyte = 1024 * 1024
    bench = Bench(forks, max_memory=64 * mebibyte)
    assert await bench.run(f"hog {40 * mebibyte}") == f"n: hog {40 * mebibyte}"
    before = await bench.pid()
    neighbour = await bench.begin("sleep 0.4")
    with pytest.raises(RunError) as raised:
        await bench.run(f"hog {512 * mebibyte}", "hog")
    assert (raised.value.fault, raised.value.stuck) == (Fault.MEMORY, True)
    assert await neighbour == "n: sleep 0.4"
    assert await bench.pid() != before, "a process that has met its limit is replaced"
    # No thread takes of it what it never uses.
    await asyncio.gather(*(bench.run("meet") for _ in range(8)))


async def test_a_process_without_memory_for_a_thread_has_met_its_limit(forks: Forks) -> None:
    mebibyte = 1024 * 1024
    bench = Bench(forks, threads=8, max_memory=mebibyte)
    before = await bench.pid()
    await bench.run(f"grow {56 * mebibyte}")
    runs = [await bench.begin("thread 0.3") for _ in range(8)]
    ends = await asyncio.gather(*runs, return_exceptions=True)
    faults = [(end.fault, end.stuck) for end in ends if isinstance(end, RunError)]
    assert set(faults) == {(Fault.MEMORY, True)}
    assert await bench.pid() != before
    await gone(before)


async def test_an_answer_that_there_is_no_memory_to_pass_on_is_told_at_once(forks: Forks) -> None:
    mebibyte = 1024 * 1024
    bench = Bench(forks, threads=1, max_memory=64 * mebibyte)
    before = await bench.pid()
    with pytest.raises(RunError) as raised:
        await bench.run(f"large {40 * mebibyte}", seconds=10)
    assert (raised.value.fault, raised.value.stuck) == (Fault.MEMORY, True)
    assert await bench.pid() != before
    await gone(before)


async def test_a_run_that_nobody_wants_any_more_ends(forks: Forks) -> None:
    bench = Bench(forks, max_runs=2)
    before = await bench.pid()
    run = await bench.begin("sleep 600")
    assert await bench.pid() != before, "the other run was its second and last"
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await gone(before)


async def test_another_flow_gets_other_processes(forks: Forks) -> None:
    bench = Bench(forks, most=2)
    await bench.pool.load(bench.document)
    old = await asyncio.gather(bench.pid(), bench.pid())
    bench.document = document(name="two")
    assert await bench.run("x") == "two: x"
    await gone(*old)


@pytest.mark.parametrize(
    ("data", "fault", "says", "packages"),
    [
        ({"crashes": 1}, Fault.UNFIT, "the process that loads it was killed by SIGSEGV", ()),
        ({"needs": "lfx_openai"}, Fault.MISSING, "No module named 'lfx_openai'", ("lfx-openai",)),
    ],
)
async def test_a_flow_that_does_not_load(
    forks: Forks, data: dict[str, Any], fault: Fault, says: str, packages: tuple[str, ...]
) -> None:
    bench = Bench(forks, most=2)
    bench.document = document(**data)
    for attempt in (bench.pool.load(bench.document), bench.run("x")):
        with pytest.raises(LoadError) as raised:
            await attempt
        assert (raised.value.fault, str(raised.value)) == (fault, says)
        assert raised.value.packages == packages
    bench.document = document()
    assert await bench.run("x") == "n: x"


@pytest.mark.parametrize(
    ("text", "tweaks", "fault"),
    [
        ("raise RuntimeError", {}, Fault.RAISED),
        ("raise TimeoutError", {}, Fault.RAISED),
        ("raise ModuleNotFoundError", {}, Fault.MISSING),
        ("raise SyntaxError", {}, Fault.CODE),
        ("strange", {}, Fault.RAISED),
        ("x", {"refused": 1}, Fault.UNFIT),
        ("x", {"protected": 1}, Fault.PROTECTED),
    ],
)
async def test_how_a_run_fails(
    forks: Forks, text: str, tweaks: dict[str, Any], fault: Fault
) -> None:
    bench = Bench(forks)
    before = await bench.pid()
    with pytest.raises(RunError) as raised:
        await bench.run(text, tweaks=tweaks)
    assert raised.value.fault is fault
    assert await bench.pid() == before


async def test_what_a_flow_sees(forks: Forks) -> None:
    bench = Bench(forks)
    assert await bench.run("variable KEY", variables={"KEY": "of this run"}) == "of this run"
    assert await bench.run("variable KEY") == "none"
    assert await bench.run("environment OPENAI_API_KEY") == "for flows"
    assert await bench.run("environment FLOWBINDING__KAFKA__SASL") == "none"
    opened = await bench.run("open")
    assert opened.split().count("socket") <= 3, "its own connection, and its event loop's pair"


async def test_what_a_component_has_started_ends_with_its_process(forks: Forks) -> None:
    bench = Bench(forks, max_runs=1)
    started = int(await bench.run("child"))
    await gone(started)


async def test_the_template_is_replaced_when_it_is_killed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        forks = Forks("local_stand_in")
        bench = Bench(forks, most=2)
        await bench.pool.load(bench.document)
        parent, child = int(await bench.run("parent")), await bench.pid()
        run = await bench.begin("block 600")
        await bench.run("x")
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(ProcessEndedError):
            await run
        await gone(child)
        assert await bench.run("x") == "n: x"
        parent, child = int(await bench.run("parent")), await bench.pid()
        await bench.pool.close()
        await gone(parent, child)


async def test_a_process_that_cannot_be_forked_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "crowded_engine.py").write_text("""
import os
import local_stand_in
fork, forks = os.fork, []
def crowded():
    forks.append(1)
    if len(forks) == 2:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
def load():
    os.fork = crowded
    return local_stand_in.load()
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{TESTS}")
        bench = Bench(Forks("crowded_engine"))
        running = await bench.begin("sleep 0.3")
        await bench.run("x")
        bench.document = document(name="two")
        with pytest.raises(LoadError, match="ended with exit code 70"):
            await bench.run("x")
        assert await running == "n: sleep 0.3"
        assert await bench.run("x") == "two: x"
        await bench.pool.close()


async def test_an_engine_that_is_not_ready_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_engine.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fork, "START_SECONDS", 0.1)
    monkeypatch.setattr(fork, "_CLOSE_SECONDS", 0.1)
    with pytest.raises(EngineMissingError, match="not ready within"):
        await Forks("slow_engine").start()


async def test_nothing_outlives_a_worker_that_is_killed() -> None:
    """Even what blocks."""
    script = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from test_flow_processes import Bench
from flowbinding_worker.flows.processes.fork import Forks
async def main():
    bench = Bench(Forks("local_stand_in"), most=2)
    await bench.pool.start()
    pids = [int(await bench.run("parent"))]
    first = await bench.pid()
    blocked = await bench.begin("block 600")
    second = await bench.pid()
    print(json.dumps([*pids, first, second]), flush=True)
    await blocked
asyncio.run(main())
"""
    worker = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", script, str(TESTS / "unit")],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    pids = json.loads(await asyncio.to_thread(worker.stdout.readline))
    assert len(set(pids)) == 3
    worker.kill()
    worker.wait()
    worker.stdout.close()
    await gone(*pids)


async def test_an_engine_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "broken_engine.py").write_text("raise OSError('disk')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        for module, says in {
            "no_such_engine": "No module named 'no_such_engine'",
            "broken_engine": "its process ended with exit code 1",
        }.items():
            forks = Forks(module)
            with pytest.raises(EngineMissingError, match=says):
                await forks.start()
            await forks.close()
