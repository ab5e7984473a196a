"""Langflow's engine, lfx: the only module that touches it. It runs in processes of its own.

What an embedding program has to know (measured with lfx 1.13.0):
- Importing it takes 3-6 s and 190 MB, and the first graph another second for what it imports then.
- Importing it configures structlog for the whole process; and it would log failures, with payloads.
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


@dataclass(frozen=True, slots=True)
class Engine:
    """lfx's functions, imported.

    Attributes:
        normalize: Copies a flow document, with code kept as lines joined.
        process_tweaks: Applies tweaks to a document's data.
        graph_of: Builds the graph of a document's data; for one run.
        run_graph: Runs a graph.
        find_missing: Packages that a document's components need and that are not installed.
        tweak_refused: Raised for a tweak of a protected field.
    """

    normalize: Callable[[dict[str, Any]], dict[str, Any]]
    process_tweaks: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    graph_of: Callable[..., Any]
    run_graph: Callable[..., Any]
    find_missing: Callable[[dict[str, Any]], list[str]]
    tweak_refused: type[Exception]

    def build(
        self, document: dict[str, Any], tweaks: dict[str, Any], variables: Mapping[str, str]
    ) -> Any:
        """A new graph; no argument is changed.

        Args:
            document: The flow's JSON.
            tweaks: Overrides of components' fields.
            variables: Global variables of this run, which go before the environment's.
        """
        # Without `stream: False` a chat output would hand out a generator.
        wanted = {**deepcopy(tweaks), "stream": False}
        data = self.process_tweaks(self.normalize(document)["data"], wanted)
        return self.graph_of(data, context={"request_variables": dict(variables)})

    async def run(self, graph: Any, **asked: Any) -> dict[str, Any]:
        """Run a new graph once; the answer has the shape of the server's.

        Args:
            graph: From `build`.
            asked: `input_value`, `session_id`, `input_type`, `output_type`, `output_component`.
        """
        answers = await self.run_graph(graph, **asked, fallback_to_env_vars=True)
        return {"outputs": [answer.model_dump(mode="json") for answer in answers]}

    def packages(self, document: dict[str, Any]) -> list[str]:
        """What has to be installed for a flow, as far as its components' code tells."""
        try:
            return self.find_missing(document)
        # It only guesses, and must not hide the failure that has led here.
        except Exception:  # noqa: BLE001
            return []


def load() -> Engine:
    """Import lfx, and what it imports with its first graph.

    Raises:
        ImportError: When lfx or something that it needs is not installed.
    """
    _prepare_environment()
    with warnings.catch_warnings():
        # Pydantic's deprecations in lfx's own classes.
        warnings.simplefilter("ignore")
        _silence()
        from lfx.components.input_output import ChatInput, ChatOutput
        from lfx.exceptions.tweaks import TweakRefusedError
        from lfx.graph.graph.base import Graph
        from lfx.processing.process import process_tweaks, run_graph
        from lfx.utils.flow_code import normalize_code_for_import
        from lfx.utils.flow_requirements import find_missing_dependencies
    engine = Engine(
        normalize=normalize_code_for_import,
        process_tweaks=process_tweaks,
        graph_of=Graph.from_payload,
        run_graph=run_graph,
        find_missing=find_missing_dependencies,
        tweak_refused=TweakRefusedError,
    )
    question: Any = ChatInput(_id="ChatInput-warm")
    answer: Any = ChatOutput(_id="ChatOutput-warm")
    answer.set(input_value=question.message_response)
    engine.build(dict(Graph(question, answer).dump(name="warm")), {}, {})
    return engine


def _prepare_environment() -> None:
    """Settings that lfx reads when it is imported; the Pod's own variables win."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("LANGFLOW_DO_NOT_TRACK", "true")
    if "LANGFLOW_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="flowbinding-lfx-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["LANGFLOW_CONFIG_DIR"] = folder


def _silence() -> None:
    """Replace lfx's logger before its modules take it: failures reach the worker by themselves."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
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
