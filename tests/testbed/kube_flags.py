"""The flags of the control plane's programs. Pure: addresses and file names in, flags out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.cluster_pki import NODE, SERVICE_RANGE, Pki
from testbed.pki import KeyPair
from testbed.state import LOOPBACK

Flags = dict[str, str | bool | list[str]]

ISSUER = "https://kubernetes.default.svc"
RANGE_MARK_PORT = 2379


@dataclass(frozen=True)
class Addresses:
    """Where everything listens."""

    pod_range: str
    """The first two numbers of the pods' addresses."""
    ports: Mapping[str, int]

    @property
    def etcd(self) -> str:
        """Etcd's address, in the pods' range: it marks the range as taken."""
        host, port = range_mark(self.pod_range)
        return f"http://{host}:{port}"

    def url(self, component: str) -> str:
        """The address of a component that serves HTTPS."""
        return f"https://{LOOPBACK}:{self.ports[component]}"


def range_mark(pod_range: str) -> tuple[str, int]:
    """The address in a pod range that its testbed listens at; the last one, far from any pod."""
    return f"{pod_range}.255.254", RANGE_MARK_PORT


def render(flags: Flags) -> list[str]:
    """Command-line words; a list repeats its flag."""
    words = []
    for name, value in flags.items():
        for item in value if isinstance(value, list) else [value]:
            text = str(item).lower() if isinstance(item, bool) else item
            words.append(f"--{name}={text}")
    return words


def etcd(addresses: Addresses, data: Path) -> Flags:
    """One member, which does not wait for the disk: its data does not outlive the testbed."""
    peer = f"http://{LOOPBACK}:{addresses.ports['etcd-peer']}"
    return {
        "data-dir": str(data),
        "unsafe-no-fsync": True,
        "listen-client-urls": addresses.etcd,
        "advertise-client-urls": addresses.etcd,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "log-level": "warn",
    }


def apiserver(addresses: Addresses, pki: Pki) -> Flags:
    """The API server, with real authentication and authorization."""
    key = str(pki.service_accounts)
    client = pki.kubelet_client
    return {
        "etcd-servers": addresses.etcd,
        "bind-address": LOOPBACK,
        # Must be given where there is no network, and nobody is told: no kube-proxy reads it.
        "advertise-address": LOOPBACK,
        "endpoint-reconciler-type": "none",
        "secure-port": str(addresses.ports["kube-apiserver"]),
        **_serving(pki.server),
        "client-ca-file": str(pki.ca),
        "token-auth-file": str(pki.tokens),
        "authorization-mode": "Node,RBAC",
        "service-account-issuer": ISSUER,
        "service-account-signing-key-file": key,
        "service-account-key-file": key,
        "service-cluster-ip-range": SERVICE_RANGE,
        "allow-privileged": True,
        "kubelet-client-certificate": str(client.certificate),
        "kubelet-client-key": str(client.key),
        "kubelet-certificate-authority": str(pki.ca),
        "kubelet-preferred-address-types": "InternalIP",
        "profiling": False,
    }


def controller_manager(addresses: Addresses, pki: Pki) -> Flags:
    """All controllers, each with its own service account, as in any cluster."""
    return {
        **_controller("kube-controller-manager", addresses, pki),
        "service-account-private-key-file": str(pki.service_accounts),
        "root-ca-file": str(pki.ca),
        "use-service-account-credentials": True,
    }


def scheduler(addresses: Addresses, pki: Pki) -> Flags:
    """The scheduler with its defaults."""
    return _controller("kube-scheduler", addresses, pki)


def node(
    addresses: Addresses,
    pki: Pki,
    state: Path,
    images: Mapping[str, Path],
    environment: Mapping[str, str],
    expose: Iterable[Path],
) -> Flags:
    """The node that runs pods as processes."""
    # What a kubelet would take from the Service; there is no kube-proxy to make that one work.
    in_cluster = {
        "KUBERNETES_SERVICE_HOST": LOOPBACK,
        "KUBERNETES_SERVICE_PORT": str(addresses.ports["kube-apiserver"]),
    }
    server = pki.node_server
    return {
        "name": NODE,
        "kubeconfig": str(pki.kubeconfig("node", addresses.url("kube-apiserver"))),
        "state-dir": str(state),
        "pod-cidr": f"{addresses.pod_range}.0.0/16",
        "listen": f"{LOOPBACK}:{addresses.ports['node']}",
        "tls-cert": str(server.certificate),
        "tls-key": str(server.key),
        "client-ca": str(pki.ca),
        "image": [f"{name}={folder}" for name, folder in images.items()],
        # A pod with a volume at /tmp still has to see a checkout or a Python that lies below it.
        "expose": [str(folder) for folder in expose],
        "env": [f"{name}={value}" for name, value in {**in_cluster, **environment}.items()],
    }


def _controller(name: str, addresses: Addresses, pki: Pki) -> Flags:
    return {
        "kubeconfig": str(pki.kubeconfig(name, addresses.url("kube-apiserver"))),
        "bind-address": LOOPBACK,
        "secure-port": str(addresses.ports[name]),
        **_serving(pki.server),
        # One of each: an election would only cost start-up time.
        "leader-elect": False,
        # The controllers ask for a token each at start; the default of 20 a second makes it slow.
        "kube-api-qps": "200",
        "kube-api-burst": "400",
    }


def _serving(pair: KeyPair) -> Flags:
    return {"tls-cert-file": str(pair.certificate), "tls-private-key-file": str(pair.key)}
