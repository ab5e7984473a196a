"""An engine for Local flows that needs no lfx, to be loaded by its processes.

A flow's document says what happens when it loads, and an input what happens when it runs:
`<word> <rest>`, with a word of `Engine.run`; any other input is answered with
`<name of the flow>: <input>`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BARRIER = threading.Barrier(8)


class TweakRefusedError(ValueError):
    """As lfx's TweakRefusedError."""


def load() -> Engine:
    """As `lfx_engine.load`."""
    return Engine()


class Engine:
    tweak_refused = TweakRefusedError

    def build(
        self, document: dict[str, Any], tweaks: dict[str, Any], variables: Mapping[str, str]
    ) -> Any:
        data = document["data"]
        if "crashes" in data:
            os.kill(os.getpid(), 11)
        if "needs" in data:
            raise ModuleNotFoundError(f"No module named '{data['needs']}'")
        if "protected" in tweaks:
            raise TweakRefusedError("protected")
        if "refused" in tweaks:
            raise ValueError("Refused tweak keys ['code']: protected")
        return data["name"], variables

    def packages(self, document: dict[str, Any]) -> list[str]:
        return ["lfx-openai"] if "needs" in document["data"] else []

    async def run(self, graph: Any, *, input_value: str, **asked: Any) -> dict[str, Any]:
        name, variables = graph
        word, _, rest = input_value.partition(" ")
        text = f"{name}: {input_value}"
        if word == "silent":
            return {"outputs": []}
        if word == "pid":
            text = str(os.getpid())
        elif word == "parent":
            text = str(os.getppid())
        elif word == "variable":
            text = variables.get(rest, "none")
        elif word == "environment":
            text = os.environ.get(rest, "none")
        elif word == "open":
            text = " ".join(sorted(map(_opened, os.listdir("/proc/self/fd"))))  # noqa: PTH208
        elif word == "sleep":
            await asyncio.sleep(float(rest))
        elif word == "thread":
            await asyncio.to_thread(time.sleep, float(rest))
        elif word == "meet":
            await asyncio.to_thread(BARRIER.wait, 10)
        elif word == "block":
            time.sleep(float(rest))  # noqa: ASYNC251 - that is the point
        elif word == "exit":
            os._exit(int(rest))
        elif word == "segfault":
            ctypes.string_at(0)
        elif word == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "hog":
            try:
                _ = b"x" * int(rest)
            except MemoryError as error:
                raise ValueError("Error running graph: inner") from error
        elif word == "large":
            text = "x" * int(rest)
        elif word == "grow":
            self.kept = b"x" * int(rest)
        elif word == "strange":
            return {"outputs": object()}
        elif word == "child":
            text = str(subprocess.Popen(["sleep", "600"]).pid)  # noqa: ASYNC220
        elif word == "raise":
            raise ValueError("Error running graph: inner") from _error(rest)
        message = {"text": text, "data": {"run_id": "r"}}
        return {"outputs": [{"outputs": [{"component_id": "C", "results": {"m": message}}]}]}


def _error(name: str) -> Exception:
    errors = {
        "RuntimeError": RuntimeError("x"),
        "TimeoutError": TimeoutError(),
        "ModuleNotFoundError": ModuleNotFoundError("No module named 'lfx_openai'"),
        "SyntaxError": SyntaxError("bad"),
    }
    return errors[name]


def _opened(descriptor: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()).partition(":")[0]
    except OSError:
        return ""
