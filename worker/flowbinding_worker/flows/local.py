"""Flows that run in the worker's Pod, without a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flowbinding_api.flow import Flow
from flowbinding_api.flow_local import LocalOptions, OnMissingEngine
from flowbinding_api.reasons import Reason
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import misconfigured, run_failed
from flowbinding_worker.flows.extract import Answers
from flowbinding_worker.flows.local_file import FlowJson
from flowbinding_worker.flows.processes.child import Fault
from flowbinding_worker.flows.processes.fork import EngineMissingError, Forks
from flowbinding_worker.flows.processes.handle import (
    Document,
    FaultError,
    LoadError,
    ProcessEndedError,
    RunError,
)
from flowbinding_worker.flows.processes.pool import Pool, Settings
from flowbinding_worker.flows.variables import global_variables
from flowbinding_worker.ports import (
    Failure,
    FlowRequest,
    FlowResult,
    Note,
    ProcessingError,
    Stage,
)

ENGINE = "flowbinding_worker.flows.lfx_engine"
_MOST_PROCESSES = 2
"""By default: more of them, on a node with many CPUs, would not fit into the Pod's memory."""
_SPARE_THREADS = 4
"""Of a process, beside one for each run: a component may use several."""


class LocalFlow:
    """Runs a flow file with lfx, in processes of its own.

    A flow file carries the Python source of its components: whoever may write it runs code in the
    worker's Pod. Chat memory does not last beyond a run; flows that need it need a server.

    A component that crashes its process, or does not end in time, costs runs of that process only:
    see `processes.pool`.

    Args:
        flow: A flow with backend Local.
        files: Where the flow's file and Secrets are mounted.
        slots: Runs in flight at most.
        note: Told when messages are answered without the flow.
        forks: Makes the processes; its own when None.
    """

    def __init__(
        self,
        flow: Flow,
        files: Files,
        *,
        slots: int,
        note: Note = lambda *_: None,
        forks: Forks | None = None,
    ) -> None:
        self._flow = flow
        self._files = files
        self._json = FlowJson(flow, files)
        self._pool = Pool(_settings(flow.local or LocalOptions(), slots), forks or Forks(ENGINE))
        self._note = note
        self._echoes = False
        self._document: Document | None = None
        self._answers = Answers(flow.output_component)
        self._rendered = any(map(_has_template, flow.tweaks.values()))

    async def start(self) -> None:
        """Import lfx (3-6 s, in another process) and load the flow.

        Raises:
            ProcessingError: CONFIGURATION with reason EngineMissing, ConfigMapMissing,
                SecretMissing or FlowFileInvalid.
        """
        try:
            await self._pool.start()
        except EngineMissingError as error:
            if self._flow.on_missing_engine is OnMissingEngine.FAIL:
                raise _engine_missing(error) from None
            self._echoes = True
            self._note(
                Reason.ECHO_INSTEAD,
                f"messages are answered with their input, as lfx cannot be imported ({error}) and"
                " spec.flow.onMissingEngine is Echo",
            )
            return
        global_variables(self._flow, self._files)
        try:
            await self._pool.load(self._current())
        except LoadError as error:
            raise self._unloadable(error) from None

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once, with a graph of its own.

        Raises:
            ProcessingError: Classified.
        """
        if self._echoes:
            return FlowResult(request.input)
        asked = self._asked(request)
        document = self._current()
        answers = self._answers
        try:
            answer = await self._pool.run(
                document, request.request_id, asked, self._flow.timeout_seconds
            )
        except EngineMissingError as error:
            raise _engine_missing(error) from None
        except LoadError as error:
            raise self._unloadable(error) from None
        except RunError as error:
            raise self._failed(error) from None
        except ProcessEndedError as error:
            raise _lost(f"{error}; outcome unknown", Reason.FLOW_FAILING) from None
        return answers.of(answer)

    async def close(self) -> None:
        """Kill all processes."""
        await self._pool.close()

    def _current(self) -> Document:
        document = self._json.current()
        if document is not self._document:
            self._document = document
            self._answers = Answers(self._flow.output_component)
        return document

    def _asked(self, request: FlowRequest) -> dict[str, Any]:
        flow = self._flow
        return {
            "tweaks": dict(request.tweaks),
            "variables": global_variables(flow, self._files),
            "run": {
                "input_value": request.input,
                "session_id": request.session_id,
                "input_type": flow.input_type,
                "output_type": flow.output_type,
                "output_component": flow.output_component,
            },
        }

    def _unloadable(self, error: LoadError) -> ProcessingError:
        return self._repairable(error) or self._json.invalid(
            f"is no flow that lfx can build: {error}"
        )

    def _failed(self, error: RunError) -> ProcessingError:
        if error.fault is Fault.TIMEOUT:
            seconds = self._flow.timeout_seconds
            return _lost(
                f"the run took longer than spec.flow.timeoutSeconds ({seconds:g} s) and was"
                " stopped; outcome unknown",
                Reason.FLOW_TIMEOUT,
            )
        if error.fault is Fault.MEMORY:
            limit = self._flow.local or LocalOptions()
            there = (
                f"spec.flow.local.maxMemory ({limit.max_memory}) leaves"
                if limit.max_memory_bytes
                else "there is"
            )
            return run_failed(f"a component asked for more memory than {there}: {error}")
        if error.fault in (Fault.UNFIT, Fault.PROTECTED):
            return self._unfit(error)
        return self._repairable(error) or run_failed(str(error))

    def _repairable(self, error: FaultError) -> ProcessingError | None:
        """What every message meets until the flow or the image is repaired."""
        if error.fault is Fault.CODE:
            return self._json.invalid(f"has a component whose code does not compile: {error}")
        if error.fault is not Fault.MISSING:
            return None
        packages = " ".join(error.packages)
        hint = f"pip install {packages}" if packages else "install the package that has it"
        return misconfigured(
            f"the flow {self._json.place} needs a Python package that this worker lacks: {error};"
            f" use a worker image with it ({hint})",
            Reason.ENGINE_MISSING,
        )

    def _unfit(self, error: RunError) -> ProcessingError:
        """Tweaks that the flow cannot be built with, although it can without them.

        What the message put into them is to blame, if it did, or if they fitted before; but never
        for the name of a field that lfx protects, as names are no templates.
        """
        problem = f"spec.flow.tweaks do not fit the flow {self._json.place}: {error}"
        protected = error.fault is Fault.PROTECTED
        if protected or not (self._rendered or self._answers.proven):
            return misconfigured(problem)
        return ProcessingError(
            problem, failure=Failure.POISON, stage=Stage.TEMPLATE, reason="TweaksRefused"
        )


def _settings(options: LocalOptions, slots: int) -> Settings:
    processes = options.processes or min(_MOST_PROCESSES, _cpus())
    return Settings(
        most=min(processes, slots),
        threads=slots + _SPARE_THREADS,
        max_runs=options.max_runs_per_process,
        max_growth=options.max_growth_bytes,
        max_memory=options.max_memory_bytes,
    )


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _engine_missing(error: EngineMissingError) -> ProcessingError:
    return misconfigured(
        f"spec.flow.backend Local needs lfx, which cannot be imported ({error}); use the worker"
        " image that has it, or install flowbinding[local]",
        Reason.ENGINE_MISSING,
    )


def _lost(message: str, reason: Reason) -> ProcessingError:
    """A run that did not end by itself: what it has done so far is done."""
    return ProcessingError(
        message,
        failure=Failure.TRANSIENT,
        stage=Stage.CALL,
        reason=reason,
        ran=True,
        outcome_unknown=True,
    )


def _has_template(value: Any) -> bool:
    """Whether any text in a tree of JSON data depends on the message."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    return isinstance(value, list) and any(map(_has_template, value))
