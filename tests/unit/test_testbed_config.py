"""The settings that the testbed gives Kafka and the control plane."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from testbed import kafka_config, kube_flags
from testbed.cluster_pki import SERVER_NAMES, Pki
from testbed.controlplane import NAMES
from testbed.kafka import answers
from testbed.kafka_config import BROKER_USER, Addresses, Security
from testbed.pki import Authority, KeyPair

WHERE = Addresses("127.0.0.1", 1111, 2222)
PASSWORDS = {"client": "c-pass", BROKER_USER: "b-pass"}


def properties(security: Security, tls: KeyPair | None = None) -> dict[str, str]:
    return kafka_config.server_properties(WHERE, Path("/d"), security, tls, Path("/ca"))


def test_a_plain_broker() -> None:
    found = properties(Security())

    assert found["listeners"] == "CLIENT://127.0.0.1:1111,CONTROLLER://127.0.0.1:2222"
    assert found["advertised.listeners"] == "CLIENT://127.0.0.1:1111"
    assert found["listener.security.protocol.map"] == "CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT"
    assert not any(name.startswith(("ssl.", "sasl.")) for name in found)
    assert kafka_config.scram_arguments(Security()) == []


def test_a_secured_broker() -> None:
    pair = KeyPair(Path("/p/broker.crt"), Path("/p/broker.key"))
    found = properties(Security(tls=True, sasl=True, users=PASSWORDS), pair)

    assert "CLIENT:SASL_SSL" in found["listener.security.protocol.map"]
    assert found["ssl.keystore.location"] == "/p/broker.pem"
    assert found["sasl.enabled.mechanisms"] == "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
    plain = found["listener.name.client.plain.sasl.jaas.config"]
    assert 'user_client="c-pass"' in plain
    assert f'username="{BROKER_USER}"' in plain


def test_scram_users_are_made_when_the_storage_is() -> None:
    arguments = kafka_config.scram_arguments(Security(sasl=True, users={"client": "c-pass"}))

    assert arguments == [
        *["--add-scram", "SCRAM-SHA-256=[name=client,password=c-pass]"],
        *["--add-scram", "SCRAM-SHA-512=[name=client,password=c-pass]"],
    ]


@pytest.mark.parametrize("word", ['a"b', "a b", "a]", "a,b", ""])
def test_words_that_kafka_cannot_carry_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Security(sasl=True, users={"client": word})
    with pytest.raises(ValueError, match="letters, digits"):
        Security(sasl=True, users={word: "password"})


@pytest.mark.parametrize(
    ("tls", "sasl", "protocol"),
    [
        (False, False, "PLAINTEXT"),
        (True, False, "SSL"),
        (False, True, "SASL_PLAINTEXT"),
        (True, True, "SASL_SSL"),
    ],
)
def test_protocols(tls: bool, sasl: bool, protocol: str) -> None:
    assert Security(tls, sasl, PASSWORDS).protocol == protocol


def test_a_properties_file() -> None:
    assert kafka_config.render({"b": "2", "a": "1"}) == "a=1\nb=2\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"\0\0\0\x06\0\0\0\x01\0\0", True), (b"\0\0\0\x06\0\0\0\x01\0\x23", False), (b"", False)],
)
def test_a_broker_that_answers_is_ready(answer: bytes, expected: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as client:
                client.recv(100)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert answers("127.0.0.1", server.getsockname()[1], None) is expected
        thread.join()


def test_nobody_there_is_not_ready() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))

        assert not answers("127.0.0.1", unused.getsockname()[1], None)


def test_flags_become_words() -> None:
    assert kube_flags.render({"a": "1", "b": True, "c": ["x=1", "y=2"]}) == [
        *["--a=1", "--b=true", "--c=x=1", "--c=y=2"]
    ]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def addresses() -> kube_flags.Addresses:
    ports = {name: 20_000 + number for number, name in enumerate(("etcd-peer", *NAMES))}
    return kube_flags.Addresses("127.42", ports)


def test_the_api_server_authorizes_for_real(pki: Pki, addresses: kube_flags.Addresses) -> None:
    flags = kube_flags.apiserver(addresses, pki)

    assert flags["authorization-mode"] == "Node,RBAC"
    assert flags["etcd-servers"] == "http://127.42.255.254:2379"
    assert flags["bind-address"] == "127.0.0.1"


def test_pods_trust_the_api_server(pki: Pki, addresses: kube_flags.Addresses) -> None:
    controllers = kube_flags.controller_manager(addresses, pki)
    node = kube_flags.node(
        addresses, pki, Path("/s"), {"image": Path("/bin")}, {"MARK": "1"}, [Path("/project")]
    )
    served = x509.load_pem_x509_certificate(pki.server.certificate.read_bytes())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert controllers["root-ca-file"] == str(pki.ca)
    assert node["env"] == [
        *["KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=20002", "MARK=1"]
    ]
    assert node["pod-cidr"] == "127.42.0.0/16"
    assert node["expose"] == ["/project"]
    assert {str(name.value) for name in names} == set(SERVER_NAMES)
    served.verify_directly_issued_by(x509.load_pem_x509_certificate(pki.ca.read_bytes()))


def test_only_the_tester_is_an_administrator(pki: Pki) -> None:
    token = pki.token()

    assert pki.token() == token
    assert pki.tokens.read_text() == f"{token},tester,tester,system:masters\n"
    for name in NAMES[2:]:
        assert "system:masters" not in pki.kubeconfig(name, "https://127.0.0.1:1").read_text()


def test_secrets_are_private(pki: Pki) -> None:
    pki.token()
    pki.kubeconfig("node", "https://127.0.0.1:1")
    secrets = [path for path in pki.folder.iterdir() if path.suffix != ".crt"]

    assert pki.service_accounts in [*secrets, pki.service_accounts]
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}


def test_an_authority_is_used_again(tmp_path: Path) -> None:
    first = Authority(tmp_path, "ca")
    pair = first.issue("server", "server", hosts=("localhost", "127.0.0.1"))
    before = pair.certificate.read_bytes()
    again = Authority(tmp_path, "ca").issue("server", "server", hosts=("localhost", "127.0.0.1"))

    assert again == pair
    assert again.certificate.read_bytes() == before
    assert isinstance(first.trust(), ssl.SSLContext)
