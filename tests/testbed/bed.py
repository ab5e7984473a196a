"""The testbed as one object, for the command line, the tests and the demo."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from testbed import (
    environment,
    files,
    gobuild,
    guard,
    kafka_runtime,
    kind,
    kubeconfig,
    lifecycle,
    operator_install,
    toolchain,
)
from testbed.component import Component
from testbed.controlplane import NAMES, ControlPlane
from testbed.errors import TestbedError
from testbed.kafka import KafkaBroker
from testbed.paths import Layout, default_root
from testbed.pki import PRIVATE
from testbed.report import Report, quiet
from testbed.state import State
from testbed.toolchain import Note

OPERATOR_NAMESPACE = "flowbinding-system"


class Testbed:
    """A Kafka and a Kubernetes on this machine, or in a kind cluster when KUBECONFIG means one.

    Objects hold nothing but the folder: two of them, also in two processes, mean one testbed.
    """

    # pytest collects classes whose name begins with Test.
    __test__ = False

    def __init__(self, root: Path | None = None, report: Report | None = None) -> None:
        """Attach to a folder; nothing is read or started.

        Args:
            root: The testbed's folder. Default: FLOWBINDING_TESTBED, else ``.testbed``.
            report: Told what is going on.
        """
        self.layout = Layout((root or default_root()).absolute())
        self.state = State(self.layout.state)
        self._report = report or quiet()

    @classmethod
    def ensure(
        cls, *, kubernetes: bool = True, root: Path | None = None, report: Report | None = None
    ) -> Testbed:
        """The testbed, started as far as it does not run."""
        testbed = cls(root, report)
        testbed.up(kubernetes=kubernetes)
        return testbed

    @classmethod
    def load(cls, root: Path | None = None) -> Testbed:
        """The testbed that is up."""
        testbed = cls(root)
        if not testbed.layout.env.exists():
            raise TestbedError(f"no testbed is up in {testbed.layout.root}", hint="Run: make up")
        return testbed

    # What it is

    @property
    def kind_context(self) -> str | None:
        """The context of the kind cluster that is used, or None for the own control plane."""
        context: str | None = self.state.get("kind")
        return context

    @property
    def kubernetes(self) -> bool:
        """Whether there is an API server, or only a Kafka."""
        return bool(self.state.get("kubernetes"))

    @property
    def bootstrap(self) -> str:
        """Kafka's address for programs on this machine."""
        return kind.HOST_BOOTSTRAP if self.kind_context else self._kafka.bootstrap

    @property
    def pod_bootstrap(self) -> str:
        """Kafka's address for pods."""
        return kind.POD_BOOTSTRAP if self.kind_context else self._kafka.bootstrap

    @property
    def kubeconfig(self) -> Path:
        """The tester's access to the API server; no other cluster is in it."""
        return self.layout.kubeconfig

    @property
    def bin(self) -> Path:
        """The folder of ``kubectl`` and ``helm``."""
        return self.layout.bin

    # What it does

    def build(self, *, kubernetes: bool = True) -> None:
        """Fetch and build everything that is not in the cache."""
        steps: list[tuple[str, Callable[[Note], object]]] = [
            ("Kafka's programs", kafka_runtime.prepare)
        ]
        if kubernetes:
            steps += [
                ("Kubernetes' programs", partial(gobuild.binary, gobuild.CONTROL_PLANE)),
                ("Helm", partial(gobuild.binary, gobuild.HELM)),
            ]
        for title, make in steps:
            with self._report.step(title) as step:
                make(step.note)

    def up(self, *, kubernetes: bool = True) -> None:
        """Start what does not run. Nothing is left running when it fails."""
        context = guard.kind_context(self.layout) if kubernetes else self.kind_context
        with files.locked(self.layout.lock):
            lifecycle.require_marker(self.layout)
            if context:
                self._up_in_kind(context)
            else:
                self._up_here(kubernetes or self.kubernetes)

    def down(self) -> None:
        """Stop everything and remove its data."""
        with files.locked(self.layout.lock):
            if self.kind_context:
                kind.remove(self.kubeconfig)
            lifecycle.stop_all(self.state, self.layout)
            lifecycle.remove(self.layout)

    def component(self, name: str) -> Component:
        """``kafka``, or one of the control plane's: a handle to stop, kill and start it."""
        if self.kind_context:
            raise TestbedError(f"{name} runs in the kind cluster and cannot be stopped from here")
        if name == "kafka":
            return self._kafka.component
        if name not in NAMES:
            raise TestbedError(f"no component {name!r}", hint=f"kafka, {', '.join(NAMES)}")
        return self._control_plane.component(name)

    def paper_node(self, pods: int = 10_000) -> Component:
        """A second node that starts no pod but says that all of them run and are ready.

        A pod gets there by the node selector `kubernetes.io/hostname: paper` and a toleration of
        `flowbinding.io/paper`; others do not.
        """
        if self.kind_context:
            raise TestbedError("there is no such node in a kind cluster")
        return self._control_plane.paper_node(pods)

    @property
    def components(self) -> list[Component]:
        """All components that this testbed has."""
        if self.kind_context:
            return []
        return [self.component(name) for name in ("kafka", *(NAMES if self.kubernetes else ()))]

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as the tester and return its output; raises with its errors."""
        return self._run(["kubectl", *arguments], input)

    def helm(self, *arguments: str, input: str | None = None) -> str:
        """Run Helm as the tester and return its output; raises with its errors."""
        return self._run(["helm", *arguments], input)

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, duration: str = "24h"
    ) -> Path:
        """Access with the rights of a service account, by a token of its own."""
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={duration}")
        path = self.layout.pki / f"service-account-{namespace}-{name}.kubeconfig"
        return kubeconfig.with_token(self.kubeconfig, path, name, token.strip())

    def install_operator(
        self, values: Mapping[str, Any] | None = None, namespace: str = OPERATOR_NAMESPACE
    ) -> str:
        """Install or upgrade the operator with its chart, and wait until it is ready."""
        defaults = operator_install.defaults(self.pod_bootstrap)
        merged = operator_install.merged(defaults, values or {})
        arguments = operator_install.arguments(namespace)
        try:
            return self.helm(*arguments, input=yaml.safe_dump(merged))
        except TestbedError as error:
            # Helm knows only that it is not ready; the operator knows why.
            logs = ("logs", "-n", namespace, "deploy/flowbinding", "--tail=20")
            with contextlib.suppress(TestbedError):
                error.hint = f"{error.hint}\n{self.kubectl(*logs)}".strip()
            raise

    # How

    @property
    def _kafka(self) -> KafkaBroker:
        return KafkaBroker(self.layout.data / "kafka", state=self.state, logs=self.layout.logs)

    @property
    def _control_plane(self) -> ControlPlane:
        return ControlPlane(self.layout, self.state, toolchain.ignore)

    def _up_here(self, kubernetes: bool) -> None:
        if self.kind_context:
            raise TestbedError(
                "this testbed uses a kind cluster, and KUBECONFIG no longer means one",
                hint="Run down first, then up.",
            )
        self.build(kubernetes=kubernetes)
        if lifecycle.crashed(self.state):
            self._report.line("The testbed did not end in order: starting anew, without its data")
            lifecycle.clean(self.state, self.layout)
        self.state.set("kubernetes", kubernetes)
        starts = [self._start_kafka]
        if kubernetes:
            starts.append(self._start_control_plane)
        lifecycle.all_or_nothing(self.state, starts)
        self._write_access(kubernetes)

    def _start_kafka(self) -> None:
        with self._report.step("Kafka broker"):
            self._kafka.start()

    def _start_control_plane(self) -> None:
        with self._report.step("Kubernetes control plane and node") as step:
            self._control_plane.start(step.note)

    def _write_access(self, kubernetes: bool) -> None:
        layout = self.layout
        if kubernetes:
            plane = self._control_plane
            ca, token = plane.pki.ca, plane.pki.token()
            kubeconfig.write(layout.kubeconfig, plane.server, ca, user="tester", token=token)
            helm = gobuild.binary(gobuild.HELM, toolchain.ignore)
            self._write_tools({"kubectl": [plane.binary, "kubectl"], "helm": [helm]})
        self._write_env(kubernetes)

    def _up_in_kind(self, context: str) -> None:
        if self.state.processes():
            raise TestbedError("this testbed runs here, not in kind", hint="Run down first.")
        tools = kind.tools()
        with self._report.step(f"Kafka and the image in {context}") as step:
            files.write(self.kubeconfig, kind.access(context), PRIVATE)
            self.state.set("kind", context)
            self.state.set("kubernetes", True)
            kind.prepare(context, self.kubeconfig, step.note)
        self._write_tools(tools)
        self._write_env(kubernetes=True)

    def _write_tools(self, tools: Mapping[str, Sequence[str | Path]]) -> None:
        for name, command in tools.items():
            words = shlex.join(map(str, command))
            files.write(self.bin / name, f'#!/bin/sh\nexec {words} "$@"\n', 0o755)

    def _write_env(self, kubernetes: bool) -> None:
        access = (self.kubeconfig, self.bin) if kubernetes else (None, None)
        # Last, because its presence says that the testbed is up.
        files.write(self.layout.env, environment.render(self.bootstrap, *access))

    def _run(self, command: list[str], stdin: str | None) -> str:
        own = {"KUBECONFIG": str(self.kubeconfig), **_homes(self.layout.data)}
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            # Never the caller's own input: nothing here may wait for a person.
            input=stdin or "",
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise TestbedError(f"{' '.join(command)} failed: {said}")
        return done.stdout


def _homes(data: Path) -> dict[str, str]:
    """Keep what kubectl and Helm store out of the user's own folders."""
    folders = {
        "KUBECACHEDIR": "kubectl",
        "HELM_CACHE_HOME": "helm/cache",
        "HELM_CONFIG_HOME": "helm/config",
        "HELM_DATA_HOME": "helm/data",
    }
    return {name: str(data / folder) for name, folder in folders.items()}
