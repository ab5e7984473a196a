"""`flowbinding-worker`: the entry point. Wiring only."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from importlib.util import find_spec
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from flowbinding_api import FlowBinding, InvalidBindingError
from flowbinding_api.masking import masked
from flowbinding_worker import logs
from flowbinding_worker.assembly import make_engine
from flowbinding_worker.engine import Stop
from flowbinding_worker.files import Files
from flowbinding_worker.health import serving
from flowbinding_worker.manifest import check_once, read_manifest
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.once import RunFailedError, leave_last_words, run_once
from flowbinding_worker.redaction import redact
from flowbinding_worker.settings import Command, Run

DONE, CANNOT_GO_ON, WRONG_MANIFEST = 0, 1, 2

log = structlog.get_logger(__name__)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        0: drained and left the group; with --once, the run ended well or there was none. 1: cannot
        go on; with --once, the run failed. 2: the manifest, or the command, is wrong.
    """
    try:
        settings = CliApp.run(Command, cli_args=arguments).run
        if settings is None:
            return _refuse(["a command is required: run (see --help)"])
        binding = read_manifest(settings.file, os.environ)
        check_once(binding, once=settings.once)
    except InvalidBindingError as error:
        return _refuse(str(problem) for problem in error.problems)
    except ValidationError as error:
        return _refuse(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    logs.configure(binding.spec.worker.log_level)
    log.info("starting", instance=settings.instance, manifest=masked(binding))
    try:
        _run_loop(once(binding, settings) if settings.once else work(binding, settings))
    except RunFailedError as error:
        log.error("run failed", error=str(error))  # noqa: TRY400 - the message says it all
        leave_last_words(settings.termination_log, str(error))
        return CANNOT_GO_ON
    except asyncio.CancelledError:
        log.warning("interrupted")
        return CANNOT_GO_ON
    except Exception:
        log.exception("cannot go on")
        return CANNOT_GO_ON
    log.info("bye")
    return DONE


async def work(binding: FlowBinding, settings: Run) -> None:
    """Run the binding until a signal ends it.

    Raises:
        Exception: The worker cannot go on.
    """
    metrics = Metrics()
    host, _, port = settings.http_address.rpartition(":")
    host = host.strip("[]")
    reason = _nothing_to_do(binding)
    if reason:
        stop = Stop()
        _on_signals(stop.ask)
        async with serving(host, int(port), metrics, lambda: True):
            log.warning("nothing to do", reason=reason)
            await stop.wanted.wait()
        return
    redact.learn_url(binding.spec.flow.url or "")
    files = Files(settings.secrets, settings.configmaps, settings.flow_volume)
    engine, stop = make_engine(binding, files, settings.instance, settings.spool, metrics)
    _on_signals(stop.ask)
    async with serving(host, int(port), metrics, lambda: engine.ready):
        await engine.run()


async def once(binding: FlowBinding, settings: Run) -> None:
    """Run the message of a schedule that is due now; a signal ends it.

    Raises:
        RunFailedError: It did not end well.
    """
    task = asyncio.current_task()
    if task is not None:
        _on_signals(task.cancel)
    files = Files(settings.secrets, settings.configmaps, settings.flow_volume)
    await run_once(binding, files, settings.instance, settings.job)


def _nothing_to_do(binding: FlowBinding) -> str:
    if binding.spec.paused:
        return "Paused"
    return "" if binding.spec.flow.runs else "Skipped"


def _on_signals(ask: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)


def _run_loop(main_task: Coroutine[Any, Any, None]) -> None:
    if find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(main_task)
    else:
        asyncio.run(main_task)


def _refuse(problems: Iterable[str]) -> int:
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return WRONG_MANIFEST


if __name__ == "__main__":
    main()
