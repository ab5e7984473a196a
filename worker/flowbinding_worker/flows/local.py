"""Flows that run inside the worker, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flowbinding_api.flow import Flow
from flowbinding_api.reasons import Reason
from flowbinding_worker.files import Files
from flowbinding_worker.flows import lfx_engine
from flowbinding_worker.flows.classify import misconfigured, run_failed, timed_out
from flowbinding_worker.flows.extract import Answers
from flowbinding_worker.flows.lfx_engine import Engine
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage

_SPARE_THREADS = 4
"""For the worker's own blocking calls, beside one thread for each run."""


class LocalFlow:
    """Runs a flow file with lfx in this process.

    A flow file carries the Python source of its components: whoever may write it runs code in the
    worker. Chat memory does not last beyond a run; flows that need it need a server.

    `flow.timeoutSeconds` ends a run whose components are coroutines. A component that blocks its
    thread cannot be stopped: its message is reported as timed out and may run again while the
    thread goes on, holds one of the worker's threads, and delays the worker's exit until it ends.

    Args:
        flow: A flow with backend Local.
        files: Where the flow's ConfigMap is mounted.
        slots: Runs in flight at most.
    """

    def __init__(self, flow: Flow, files: Files, *, slots: int) -> None:
        self._flow = flow
        self._files = files
        self._slots = slots
        self._engine: Engine | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._raw = b""
        self._document: dict[str, Any] = {}
        self._answers = Answers(flow.output_component)
        self._rendered = any(map(_has_template, flow.tweaks.values()))

    async def start(self) -> None:
        """Import lfx (3-6 s, in a thread) and check the flow file.

        Raises:
            ProcessingError: CONFIGURATION with reason EngineMissing, ConfigMapMissing or
                FlowFileInvalid.
        """
        if self._executor is None:
            # Components that are no coroutines run in the loop's own pool: cpu + 4 threads by
            # default.
            threads = self._slots + _SPARE_THREADS
            self._executor = ThreadPoolExecutor(threads, thread_name_prefix="flow")
            asyncio.get_running_loop().set_default_executor(self._executor)
        self._current_document(await self._loaded_engine())

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once, with a graph of its own.

        Raises:
            ProcessingError: Classified.
        """
        engine = await self._loaded_engine()
        document = self._current_document(engine)
        try:
            graph = engine.build(document, request.tweaks)
        # Whatever is wrong in a graph can surface as anything; tweaks are all that is new to it.
        except Exception as error:  # noqa: BLE001
            raise self._unfit(engine, error) from None
        answers = self._answers
        return answers.of(await self._answer(engine, graph, request))

    async def close(self) -> None:
        """Forget the flow. lfx stays imported: Python cannot take that back."""
        self._raw, self._document = b"", {}

    async def _answer(self, engine: Engine, graph: Any, request: FlowRequest) -> dict[str, Any]:
        seconds = self._flow.timeout_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                return await engine.run(
                    graph,
                    request,
                    input_type=self._flow.input_type,
                    output_type=self._flow.output_type,
                    output_component=self._flow.output_component,
                )
        # A component may raise anything.
        except Exception as error:  # noqa: BLE001
            if limit.expired():
                raise timed_out(seconds) from None
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> ProcessingError:
        for cause in _causes(error):
            if isinstance(cause, ImportError):
                return misconfigured(
                    f"the flow {self._place()} needs a Python package that this worker lacks:"
                    f" {cause}; use a worker image that has it",
                    Reason.ENGINE_MISSING,
                )
            if isinstance(cause, SyntaxError):
                return self._invalid(f"a component's code does not compile: {cause}")
        return run_failed(str(error) or type(error).__name__)

    def _unfit(self, engine: Engine, error: Exception) -> ProcessingError:
        """Tweaks that the flow cannot be built with, although it can without them.

        What the message put into them is to blame, if it did, or if they fitted before; but never
        for the name of a field that lfx protects, as names are no templates.
        """
        problem = f"spec.flow.tweaks do not fit the flow {self._place()}: {error}"
        protected = isinstance(error, engine.tweak_refused)
        if protected or not (self._rendered or self._answers.proven):
            return misconfigured(problem)
        return ProcessingError(
            problem, failure=Failure.POISON, stage=Stage.TEMPLATE, reason="TweaksRefused"
        )

    async def _loaded_engine(self) -> Engine:
        if self._engine is None:
            try:
                self._engine = await asyncio.to_thread(lfx_engine.load)
            except ImportError as error:
                raise misconfigured(
                    f"spec.flow.backend Local needs lfx, which cannot be imported ({error}); use"
                    " the worker image that has it, or install flowbinding[local]",
                    Reason.ENGINE_MISSING,
                ) from None
        return self._engine

    def _current_document(self, engine: Engine) -> dict[str, Any]:
        """The flow as the file has it now: read for each run, parsed when it has changed."""
        raw = self._read()
        if raw != self._raw:
            document = self._parsed(raw)
            self._try(engine, document)
            self._raw, self._document = raw, document
            self._answers = Answers(self._flow.output_component)
        return self._document

    def _read(self) -> bytes:
        file = self._flow.file
        if file is None:
            raise misconfigured("spec.flow.file: required when backend is Local")
        if file.config_map_key_ref is not None:
            return self._files.config_map(file.config_map_key_ref, "spec.flow.file.configMapKeyRef")
        try:
            return Path(file.path or "").read_bytes()
        except OSError as error:
            raise self._invalid(f"cannot be read: {error.strerror}") from None

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._invalid(f"is not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
            raise self._invalid(
                "has no object `data` at its top: export the flow from Langflow as it is"
            )
        return document

    def _try(self, engine: Engine, document: dict[str, Any]) -> None:
        """Build a graph once, so that a broken file is told from a broken run."""
        try:
            engine.build(document, {})
        except Exception as error:  # noqa: BLE001
            raise self._invalid(f"is no flow that lfx can build: {error}") from None

    def _invalid(self, problem: str) -> ProcessingError:
        return misconfigured(f"the flow {self._place()} {problem}", Reason.FLOW_FILE_INVALID)

    def _place(self) -> str:
        file = self._flow.file
        ref = file.config_map_key_ref if file is not None else None
        if ref is not None:
            return f"{ref.key} of ConfigMap {ref.name} (spec.flow.file.configMapKeyRef)"
        return f"{file.path if file is not None else None} (spec.flow.file.path)"


def _has_template(value: Any) -> bool:
    """Whether any text in a tree of JSON data depends on the message."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    return isinstance(value, list) and any(map(_has_template, value))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
