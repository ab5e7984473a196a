"""Who is who in the cluster: certificates, keys and tokens, and the kubeconfigs made of them."""

from __future__ import annotations

import csv
import io
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testbed import files, kubeconfig
from testbed.pki import PRIVATE, Authority, KeyPair, service_account_key
from testbed.state import LOOPBACK

NODE = "local"
SERVICE_RANGE = "10.96.0.0/16"
SERVER_NAMES = (
    LOOPBACK,
    "10.96.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Pki:
    """Everything is signed by one authority; only the tester is an administrator."""

    folder: Path

    @cached_property
    def authority(self) -> Authority:
        """Signs servers and clients alike."""
        return Authority(self.folder, "testbed")

    @property
    def ca(self) -> Path:
        """The authority's certificate, which pods get as kube-root-ca.crt."""
        return self.authority.certificate

    @property
    def server(self) -> KeyPair:
        """Serves the API, and the health checks of the two controllers."""
        return self.authority.issue("apiserver", "kube-apiserver", hosts=SERVER_NAMES)

    @property
    def node_server(self) -> KeyPair:
        """Serves logs, exec and port-forward."""
        return self.authority.issue("node-server", "node", hosts=(LOOPBACK,))

    @property
    def kubelet_client(self) -> KeyPair:
        """Shows the node that the API server asks."""
        return self.authority.issue("kubelet-client", "kube-apiserver-kubelet-client")

    @property
    def service_accounts(self) -> Path:
        """Signs and verifies service-account tokens."""
        return service_account_key(self.folder / "service-accounts.key")

    @property
    def tokens(self) -> Path:
        """The API server's list of static tokens: the tester's."""
        return self.folder / "tokens.csv"

    def token(self) -> str:
        """The tester's token."""
        if not self.tokens.exists():
            line = f"{secrets.token_hex(24)},tester,tester,system:masters\n"
            files.write(self.tokens, line, PRIVATE)
        return next(csv.reader(io.StringIO(self.tokens.read_text())))[0]

    def kubeconfig(self, component: str, server: str) -> Path:
        """A component's own access, under the name that RBAC's built-in roles are bound to."""
        is_node = component == "node"
        user = f"system:node:{NODE}" if is_node else f"system:{component}"
        pair = self.authority.issue(component, user, group="system:nodes" if is_node else "")
        path = self.folder / f"{component}.kubeconfig"
        return kubeconfig.write(path, server, self.ca, user=user, pair=pair)
