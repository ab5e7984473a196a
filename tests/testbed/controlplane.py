"""The Kubernetes control plane and its node, as programs of one binary on loopback addresses."""

from __future__ import annotations

import random
import socket
import ssl
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import httpx

from testbed import gobuild, kube_flags
from testbed.cluster_pki import NODE, Pki
from testbed.component import Component, Program
from testbed.errors import TestbedError
from testbed.kube_flags import Addresses, Flags
from testbed.paths import PROJECT, Layout
from testbed.state import LOOPBACK, State, is_free
from testbed.toolchain import Note

IMAGE = "flowbinding/flowbinding"
# In every pod's environment: a pod that outlives its node is found by it.
POD_MARK = "TESTBED_ROOT"
PAPER = "paper"
"""A node that says of its pods that they run, and starts nothing: for fleets."""
PAPER_TAINT = "flowbinding.io/paper"
"""Keeps pods away from it that are meant to run."""
PAPER_RANGE = "127.1"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "node")
# Then SIGKILL. The API server ends its requests at once but waits a minute for watches to leave,
# and etcd waits for the API server; the node waits for its pods.
STOP_SECONDS = {"etcd": 3.0, "kube-apiserver": 2.0, "node": 15.0, "kafka": 20.0}


class ControlPlane:
    """The components of one testbed, at the addresses that its state remembers."""

    def __init__(self, layout: Layout, state: State, note: Note) -> None:
        """Nothing is started; the binary is built when a command line is asked for."""
        self._layout = layout
        self._state = state
        self._note = note
        self.pki = Pki(layout.pki)

    @cached_property
    def binary(self) -> Path:
        """The program that holds them all."""
        return gobuild.binary(gobuild.CONTROL_PLANE, self._note)

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._addresses.url("kube-apiserver")

    def component(self, name: str) -> Component:
        """One of NAMES."""
        parts: dict[str, tuple[Callable[[], Flags], Callable[[], bool]]] = {
            "etcd": (self._etcd, self._etcd_is_healthy),
            "kube-apiserver": (self._apiserver, lambda: self._found("/readyz")),
            "kube-controller-manager": (self._controller_manager, self._controllers_have_begun),
            "kube-scheduler": (self._scheduler, lambda: self._serves("kube-scheduler")),
            "node": (self._node, self._node_is_ready),
        }
        flags, ready = parts[name]
        program = Program(
            name=name,
            command=lambda: [str(self.binary), name, *kube_flags.render(flags())],
            log=self._layout.logs / f"{name}.log",
            ready=ready,
            stop_seconds=STOP_SECONDS.get(name, 10),
        )
        return Component(program, self._state)

    def paper_node(self, pods: int) -> Component:
        """The node of that name, with room for so many pods."""
        flags = {
            **self._node(),
            "name": PAPER,
            "no-run": True,
            # The tester's: as itself it would have to be known before it is there.
            "kubeconfig": str(self._layout.kubeconfig),
            "state-dir": str(self._layout.data / "paper-node"),
            "listen": f"{LOOPBACK}:{self._state.port('paper-node')}",
            "pod-cidr": f"{PAPER_RANGE}.0.0/16",
            "capacity-pods": str(pods),
        }
        program = Program(
            name="paper-node",
            command=lambda: [str(self.binary), "node", *kube_flags.render(flags)],
            log=self._layout.logs / "paper-node.log",
            prepare=self._taint_paper,
            ready=lambda: self._is_ready(PAPER, self._state.port("paper-node")),
        )
        return Component(program, self._state)

    def _taint_paper(self) -> None:
        """Make the node's object before the node does: no pod may come between."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": PAPER, "labels": {"kubernetes.io/hostname": PAPER}},
            "spec": {"taints": [{"key": PAPER_TAINT, "effect": "NoSchedule"}]},
        }
        done = self._ask("POST", f"{self.server}/api/v1/nodes", node)
        if done is None or (done.is_error and done.status_code != httpx.codes.CONFLICT):
            raise TestbedError("the paper node could not be made", hint=done.text if done else "")

    def start(self, note: Note) -> None:
        """Start all, in the order in which they need each other."""
        components = [self.component(name) for name in NAMES]
        if any(component.outdated for component in components):
            # In reverse, because an API server whose storage has gone is slow to stop.
            for component in reversed(components):
                note(f"stopping {component.name}")
                component.stop()
        for component in components[:2]:
            note(component.name)
            component.start()
        self._allow_node()
        rest = components[2:]
        for component in rest:
            component.launch()
        for component in rest:
            note(component.name)
            component.wait()

    @property
    def _addresses(self) -> Addresses:
        ports = {name: self._state.port(name) for name in ("etcd-peer", *NAMES)}
        return Addresses(self._range(), ports)

    def _range(self) -> str:
        """Choose a free range of loopback addresses for pods, once."""
        chosen: str | None = self._state.get("pod-range")
        if chosen is None:
            numbers = random.sample(range(2, 255), 253)
            prefixes = (f"127.{number}" for number in numbers)
            # A testbed's etcd listens in its own range, which tells others that it is taken.
            chosen = next(p for p in prefixes if is_free(*kube_flags.range_mark(p)))
            self._state.set("pod-range", chosen)
        return chosen

    def _etcd(self) -> Flags:
        return kube_flags.etcd(self._addresses, self._layout.data / "etcd")

    def _apiserver(self) -> Flags:
        # Written before the server reads it.
        self.pki.token()
        return kube_flags.apiserver(self._addresses, self.pki)

    def _controller_manager(self) -> Flags:
        return kube_flags.controller_manager(self._addresses, self.pki)

    def _scheduler(self) -> Flags:
        return kube_flags.scheduler(self._addresses, self.pki)

    def _node(self) -> Flags:
        return kube_flags.node(
            self._addresses,
            self.pki,
            self._layout.data / "node",
            # The environment that this very program runs in holds the project.
            images={IMAGE: Path(sys.prefix) / "bin"},
            environment={POD_MARK: str(self._layout.root)},
            expose=(PROJECT, Path(sys.base_prefix)),
        )

    def _etcd_is_healthy(self) -> bool:
        return self._healthy(f"{self._addresses.etcd}/health")

    def _controllers_have_begun(self) -> bool:
        """Whether the controllers have made what every cluster has."""
        role = self._get("/apis/rbac.authorization.k8s.io/v1/clusterroles/view")
        return bool(
            self._serves("kube-controller-manager")
            and role is not None
            and role.is_success
            and role.json().get("rules")
            and self._found("/api/v1/namespaces/default/serviceaccounts/default")
        )

    def _node_is_ready(self) -> bool:
        return self._is_ready(NODE, self._addresses.ports["node"])

    def _is_ready(self, node: str, port: int) -> bool:
        # Its object alone may still say Ready from before a restart.
        if not listens(port):
            return False
        response = self._get(f"/api/v1/nodes/{node}")
        if response is None or not response.is_success:
            return False
        conditions = response.json()["status"].get("conditions", [])
        return ("Ready", "True") in {(c["type"], c["status"]) for c in conditions}

    def _allow_node(self) -> None:
        """Let the node read what the role of nodes allows, in all namespaces.

        The Node authorizer shows a kubelet the Secrets of its own pods one by one; the virtual
        kubelet lists and watches them.
        """
        group = "rbac.authorization.k8s.io"
        binding = {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "testbed-node"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:node"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": f"system:node:{NODE}"}],
        }
        done = self._ask("POST", f"{self.server}/apis/{group}/v1/clusterrolebindings", binding)
        if done is None or (done.is_error and done.status_code != httpx.codes.CONFLICT):
            raise TestbedError(
                "the node could not be given its role", hint=done.text if done else ""
            )

    def _get(self, path: str) -> httpx.Response | None:
        return self._ask("GET", f"{self.server}{path}")

    def _found(self, path: str) -> bool:
        return self._healthy(f"{self.server}{path}")

    def _serves(self, name: str) -> bool:
        return self._healthy(f"{self._addresses.url(name)}/healthz")

    def _healthy(self, url: str) -> bool:
        response = self._ask("GET", url)
        return response is not None and response.is_success

    def _ask(self, method: str, url: str, body: object = None) -> httpx.Response | None:
        """A request as the tester; None while nobody answers."""
        try:
            return httpx.request(
                method,
                url,
                json=body,
                headers={"Authorization": f"Bearer {self.pki.token()}"},
                verify=self._trust,
                trust_env=False,
                timeout=5,
            )
        except httpx.TransportError:
            return None

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return self.pki.authority.trust()


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=5).close()
    except OSError:
        return False
    return True
