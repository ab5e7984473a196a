"""Langflow's engine, lfx, inside this process: the only module that touches it.

What an embedding program has to know (measured with lfx 1.13.0):
- Importing it takes 3-6 s and 200 MB; so only workers of Local bindings do, in `load`.
- Importing it configures structlog for the whole process, and each `arun_flow_from_json` does so
  again; the worker's own logs would fall silent. So its logger is replaced before anything uses
  it, and graphs are built from the same parts that `arun_flow_from_json` is made of.
- It keeps a folder of settings in the home directory, which a Pod cannot write.
- A `Graph` is for one run: shared or used again it answers with other messages' results, without
  an error.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import structlog

from flowbinding_worker.ports import FlowRequest


@dataclass(frozen=True, slots=True)
class Engine:
    """lfx's functions, imported.

    Attributes:
        normalize: Copies a flow document, with code kept as lines joined.
        process_tweaks: Applies tweaks to a document's data.
        graph_of: Builds the graph of a document's data; for one run.
        run_graph: Runs a graph.
        tweak_refused: Raised for a tweak of a protected field.
    """

    normalize: Callable[[dict[str, Any]], dict[str, Any]]
    process_tweaks: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    graph_of: Callable[[dict[str, Any]], Any]
    run_graph: Callable[..., Any]
    tweak_refused: type[Exception]

    def build(self, document: dict[str, Any], tweaks: Mapping[str, Any]) -> Any:
        """A new graph; neither argument is changed."""
        # Without `stream: False` a chat output would hand out a generator.
        wanted = {**deepcopy(dict(tweaks)), "stream": False}
        return self.graph_of(self.process_tweaks(self.normalize(document)["data"], wanted))

    async def run(
        self,
        graph: Any,
        request: FlowRequest,
        *,
        input_type: str,
        output_type: str,
        output_component: str | None,
    ) -> dict[str, Any]:
        """Run a new graph once; the answer has the shape of the server's."""
        answers = await self.run_graph(
            graph,
            request.input,
            input_type,
            output_type,
            session_id=request.session_id,
            fallback_to_env_vars=True,
            output_component=output_component,
        )
        return {"outputs": [answer.model_dump(mode="json") for answer in answers]}


def load() -> Engine:
    """Import lfx; to be called in a thread.

    Raises:
        ImportError: When lfx or something that it needs is not installed.
    """
    _prepare_environment()
    with warnings.catch_warnings():
        # Pydantic's deprecations in lfx's own classes.
        warnings.simplefilter("ignore")
        _silence()
        from lfx.exceptions.tweaks import TweakRefusedError
        from lfx.graph.graph.base import Graph
        from lfx.processing.process import process_tweaks, run_graph
        from lfx.utils.flow_code import normalize_code_for_import
    return Engine(
        normalize=normalize_code_for_import,
        process_tweaks=process_tweaks,
        graph_of=Graph.from_payload,
        run_graph=run_graph,
        tweak_refused=TweakRefusedError,
    )


def _prepare_environment() -> None:
    """Settings that lfx reads when it is imported; the Pod's own variables win."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("LANGFLOW_DO_NOT_TRACK", "true")
    if "LANGFLOW_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="flowbinding-lfx-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["LANGFLOW_CONFIG_DIR"] = folder


def _silence() -> None:
    """Replace lfx's logger before its modules take it.

    Failures reach the worker as exceptions; lfx would log them as well, with payloads.
    """
    with _structlog_untouched():
        import lfx.log.logger  # noqa: F401 - `lfx.log.logger` as an attribute is the logger itself
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    quiet = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), [_drop], level)
    for name in ("lfx.log.logger", "lfx.log"):
        vars(sys.modules[name])["logger"] = quiet


def _drop(logger: Any, method: str, event: Any) -> Any:
    raise structlog.DropEvent


@contextmanager
def _structlog_untouched() -> Iterator[None]:
    """Keep the process's structlog configuration while something else tries to set its own."""
    names = ("configure", "reset_defaults")
    kept = {name: getattr(structlog, name) for name in names}
    for name in names:
        setattr(structlog, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(structlog, name, function)
