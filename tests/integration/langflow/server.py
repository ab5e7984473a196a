"""A real Langflow server, and a real `lfx serve`, for tests; started once a session.

Langflow is installed once; lfx is in the environment of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from testbed.cache import content_hash, ensure
from testbed.files import tail
from testbed.paths import PROJECT
from testbed.process import Process, spawn
from testbed.report import Report
from testbed.waiting import wait_until

REQUIREMENTS = PROJECT / "requirements"
LOCK = REQUIREMENTS / "langflow-server.lock"

FIRST_START_SECONDS = 240
"""32-36 s on a quiet machine; shared ones take longer."""

SETTINGS = {
    "LANGFLOW_AUTO_LOGIN": "false",
    "LANGFLOW_DEVELOPER_API_ENABLED": "true",
    "LANGFLOW_SUPERUSER": "admin",
    "LANGFLOW_SUPERUSER_PASSWORD": "admin-pass-1234",
    "LANGFLOW_SAVE_DB_IN_CONFIG_DIR": "true",
    "LANGFLOW_STORE": "false",
    "LANGFLOW_AUTO_SAVING": "false",
    "LANGFLOW_CREATE_STARTER_PROJECTS": "false",
    "LANGFLOW_UPDATE_STARTER_PROJECTS": "false",
    "LANGFLOW_AGENTIC_EXPERIENCE": "false",
    "LANGFLOW_MCP_SERVER_ENABLED": "false",
    "LANGFLOW_TRANSACTIONS_STORAGE_ENABLED": "false",
    "LANGFLOW_VERTEX_BUILDS_STORAGE_ENABLED": "false",
    "LANGFLOW_DEACTIVATE_TRACING": "true",
    "LANGFLOW_DISABLE_TRACK_APIKEY_USAGE": "true",
    # The default log format draws a traceback for 4-8 s for each failed run.
    "LANGFLOW_LOG_ENV": "container",
    "LANGFLOW_LOG_LEVEL": "warning",
    "LANGFLOW_DO_NOT_TRACK": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass
class LangflowServer:
    """A running server.

    Attributes:
        url: Base URL, without a slash at the end.
        api_key: A valid key.
        flows: Ids of the uploaded flows, by the name of their file without `.json`.
    """

    url: str
    api_key: str = ""
    flows: dict[str, str] = field(default_factory=dict)


def installed() -> Path:
    """The Python of an environment that has the locked packages; installs them when needed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # `.venv/bin/python -m …` finds its packages wherever the folder was moved after it was made.
    return ensure("langflow", content_hash(REQUIREMENTS, [LOCK], version), _install) / "bin/python"


def _install(folder: Path) -> None:
    with Report() as report, report.step("Installing a Langflow server (1.3 GB, once)"):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(folder / "bin/python")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # --no-deps: the lock is complete, and pip cannot match extras with hashed pins.
        install = ["install", "-q", "--no-deps", "--require-hashes", "-r", str(LOCK)]
        subprocess.run([*pip, *install], check=True)


@contextmanager
def running(flow_files: Mapping[str, Path]) -> Iterator[LangflowServer]:
    """Start a server with the given flows and a key; stop it when the block ends."""
    python = installed()
    with tempfile.TemporaryDirectory(prefix="flowbinding-langflow-") as folder:
        home = Path(folder)
        server = LangflowServer(f"http://127.0.0.1:{_free_port()}")
        process = _start(python, server.url, home)
        try:
            _wait_healthy(f"{server.url}/health_check", process, home / "server.log")
            _prepare(server, flow_files)
            yield server
        finally:
            process.end(grace=15)


@contextmanager
def serving(flow_files: Mapping[str, Path]) -> Iterator[LangflowServer]:
    """Start `lfx serve` with the given flows; stop it when the block ends."""
    with tempfile.TemporaryDirectory(prefix="flowbinding-lfx-") as folder:
        home = Path(folder)
        server = LangflowServer(f"http://127.0.0.1:{_free_port()}", api_key="served-1234")
        process = _start_lfx(server, list(flow_files.values()), home)
        try:
            _wait_healthy(f"{server.url}/health", process, home / "server.log")
            with httpx.Client(base_url=server.url, timeout=60) as client:
                listed = _json(client.get("/flows", headers={"x-api-key": server.api_key}))
            server.flows = {Path(item["relative_path"]).stem: item["id"] for item in listed}
            yield server
        finally:
            process.end(grace=15)


def _start(python: Path, url: str, home: Path) -> Process:
    command = [str(python), "-m", "langflow", "run", "--backend-only", "--no-open-browser"]
    command += ["--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--workers", "1"]
    secret_key = {"LANGFLOW_SECRET_KEY": "Zmxvd2JpbmRpbmctdGVzdHMtb25seS0zMi1ieXRlcyE="}
    return spawn(command, home / "server.log", {**_environment(home), **secret_key})


def _start_lfx(server: LangflowServer, files: list[Path], home: Path) -> Process:
    folder = home / "flows"
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    command = [sys.executable, "-m", "lfx", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", server.url.rpartition(":")[2]]
    key = {"LANGFLOW_API_KEY": server.api_key}
    return spawn(command, home / "server.log", {**_environment(home), **key})


def _environment(home: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home), "LANGFLOW_CONFIG_DIR": str(home / "config")}
    return {**inherited, **SETTINGS, **own}


def _wait_healthy(url: str, process: Process, log: Path) -> None:
    def healthy() -> bool:
        if not process.running:
            raise RuntimeError(f"the server ended at its start:\n{tail(log)}")
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    with Report() as report, report.step(f"Starting a flow server ({url})"):
        wait_until(healthy, what="healthy", timeout=FIRST_START_SECONDS, explain=lambda: tail(log))


def _prepare(server: LangflowServer, flow_files: Mapping[str, Path]) -> None:
    """Log in, create a key, upload the flows."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        token = _json(
            client.post(
                "/api/v1/login",
                data={
                    "username": SETTINGS["LANGFLOW_SUPERUSER"],
                    "password": SETTINGS["LANGFLOW_SUPERUSER_PASSWORD"],
                },
            )
        )["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        key = client.post("/api/v1/api_key/", json={"name": "tests"}, headers=bearer)
        server.api_key = _json(key)["api_key"]
        headers = {"x-api-key": server.api_key}
        for name, path in flow_files.items():
            document = json.loads(path.read_text())
            created = client.post("/api/v1/flows/", json=document, headers=headers)
            server.flows[name] = _json(created)["id"]


def _json(response: httpx.Response) -> Any:
    response.raise_for_status()
    return response.json()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
