"""From `spec.kafka` to aiokafka's arguments."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.kafka import Kafka
from flowbinding_api.kafka_options import client_options
from testbed.pki import Authority

SERVERS = {"bootstrapServers": "a:1,b:2"}


def ref(key: str) -> dict[str, str]:
    return {"name": "kafka", "key": key}


def options(secrets: dict[str, bytes], **kafka: Any) -> dict[str, Any]:
    def secret(wanted: SecretKeyRef) -> bytes:
        assert wanted.name == "kafka"
        return secrets[wanted.key]

    return client_options(Kafka.model_validate({**SERVERS, **kafka}), secret)


SASL = {
    "mechanism": "SCRAM-SHA-512",
    "usernameSecretRef": ref("user"),
    "passwordSecretRef": ref("password"),
}
USER = {"user": b"app\n", "password": b"se cret\r\n"}


def test_plain() -> None:
    assert options({}) == {"bootstrap_servers": "a:1,b:2", "security_protocol": "PLAINTEXT"}
    assert options({}, tls={"enabled": False})["security_protocol"] == "PLAINTEXT"


def test_no_brokers() -> None:
    with pytest.raises(FlowBindingError, match="bootstrapServers") as caught:
        client_options(Kafka(), lambda _: b"")
    assert caught.value.reason == "KafkaNotConfigured"


def test_sasl_without_tls() -> None:
    found = options(USER, sasl=SASL)
    assert found["security_protocol"] == "SASL_PLAINTEXT"
    assert found["sasl_mechanism"] == "SCRAM-SHA-512"
    assert found["sasl_plain_username"] == "app", "without the file's line break"
    assert found["sasl_plain_password"] == "se cret"


def test_the_systems_authorities() -> None:
    found = options(USER, tls={"enabled": True}, sasl=SASL)
    assert found["security_protocol"] == "SASL_SSL"
    assert found["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert found["ssl_context"].check_hostname


def test_an_authority_and_a_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "test")
    pair = authority.issue("client", "client")
    secrets = {
        "ca": authority.certificate.read_bytes(),
        "cert": pair.certificate.read_bytes(),
        "key": pair.key.read_bytes(),
    }
    tls = {
        "enabled": True,
        "caSecretRef": ref("ca"),
        "certificateSecretRef": ref("cert"),
        "keySecretRef": ref("key"),
    }
    found = options(secrets, tls=tls)
    assert found["security_protocol"] == "SSL"
    context = found["ssl_context"]
    assert [a["subject"] for a in context.get_ca_certs()], "the authority is trusted"
    assert context.cert_store_stats()["x509_ca"] == 1, "and no other"
    assert context.check_hostname
    with pytest.raises(FlowBindingError, match="key cert: not usable") as caught:
        options({**secrets, "key": b"nonsense"}, tls=tls)
    assert caught.value.reason == "KafkaNotConfigured"


@pytest.mark.parametrize("content", [b"nonsense", b"\xff", b""])
def test_an_authority_that_is_none(content: bytes) -> None:
    with pytest.raises(FlowBindingError, match="Secret kafka, key ca"):
        options({"ca": content}, tls={"enabled": True, "caSecretRef": ref("ca")})


def test_a_password_that_is_no_text_is_not_shown() -> None:
    with pytest.raises(FlowBindingError) as caught:
        options({**USER, "password": b"\xffhunter2"}, sasl=SASL)
    assert "hunter2" not in str(caught.value)
