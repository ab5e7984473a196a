"""One namespace of the testbed, as a user with kubectl sees it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from testbed import Testbed

T = TypeVar("T")
Object = dict[str, Any]


async def eventually(what: str, probe: Callable[[], T], *, seconds: float = 60) -> T:
    """Ask `probe` until it returns something true, and return that.

    Raises:
        TimeoutError: Saying what was waited for, and the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = await asyncio.to_thread(probe)
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s; last: {answer!r}")
        await asyncio.sleep(0.2)


class Namespace:
    """A namespace of its own for one test."""

    def __init__(self, bed: Testbed, name: str) -> None:
        self.bed = bed
        self.name = name

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in this namespace."""
        return self.bed.kubectl("-n", self.name, *arguments, input=stdin)

    def apply(self, *objects: Object) -> str:
        """`kubectl apply` of objects; namespaces in them are replaced."""
        for item in objects:
            item.setdefault("metadata", {})["namespace"] = self.name
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> Object:
        """One object, or an empty one."""
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        found: Object = json.loads(text) if text.strip() else {}
        return found

    def items(self, kind: str, *arguments: str) -> list[Object]:
        """All objects of a kind."""
        items: list[Object] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))[
            "items"
        ]
        return items

    def status(self, name: str) -> Object:
        """A binding's status."""
        found: Object = self.get("fb", name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """(status, reason) of a binding's condition; empty texts while there is none."""
        for item in self.status(name).get("conditions", []):
            if item["type"] == kind:
                return item["status"], item["reason"]
        return "", ""

    async def has_condition(
        self, name: str, kind: str, status: str, reason: str, *, seconds: float = 60
    ) -> None:
        """Wait for a condition."""

        def probe() -> bool | tuple[str, str]:
            found = self.condition(name, kind)
            return found == (status, reason)

        try:
            await eventually(f"{name} {kind}={status}/{reason}", probe, seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; status: {json.dumps(self.status(name))}") from None

    def wanted(self, name: str) -> int | None:
        """Replicas that the worker Deployment asks for; None while there is none."""
        deployment = self.get("deploy", f"{name}-worker")
        return deployment["spec"]["replicas"] if deployment else None

    def pods(self, name: str) -> list[Object]:
        """Worker Pods of a binding."""
        return self.items("pods", "-l", f"flowbinding.io/binding={name}")

    def events(self, name: str) -> list[Object]:
        """Events about a binding."""
        return self.items(
            "events.events.k8s.io",
            f"--field-selector=regarding.name={name},regarding.kind=FlowBinding",
        )


def processes(variable: str, pod: str) -> Iterator[int]:
    """Processes of a Pod, which have its name in this variable of their environment."""
    mark = f"{variable}={pod}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue
