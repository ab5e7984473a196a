"""Certificates and keys for a testbed, made anew for each and thrown away with it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed import files

PRIVATE = 0o600
# A testbed may be left up for a while, and clocks on laptops jump when they wake up.
VALID = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder; an existing one is used again."""

    def __init__(self, folder: Path, name: str) -> None:
        """Load the authority, or make it."""
        self._folder = folder
        self.certificate = folder / "ca.crt"
        self._key_file = folder / "ca.key"
        if not self.certificate.exists():
            self._create(name)
        self._cert = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def issue(
        self, file_name: str, common_name: str, *, group: str = "", hosts: tuple[str, ...] = ()
    ) -> KeyPair:
        """A certificate for a client, in a Kubernetes group, or for a server with these hosts."""
        pair = KeyPair(self._folder / f"{file_name}.crt", self._folder / f"{file_name}.key")
        if pair.certificate.exists() and pair.key.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            _builder(_name(common_name, group), self._cert.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_key(self._cert), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        write_key(pair.key, key)
        _write_certificate(pair.certificate, builder.sign(self._key, hashes.SHA256()))
        return pair

    def trust(self) -> ssl.SSLContext:
        """What a Python client needs to trust this authority."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name, "")
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_ca_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        write_key(self._key_file, key)
        _write_certificate(self.certificate, certificate)


def service_account_key(path: Path) -> Path:
    """The key that signs service-account tokens."""
    if not path.exists():
        write_key(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return path


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """Write a key, unencrypted, for its owner only."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,  # the only form that Kafka reads
        serialization.NoEncryption(),
    )
    files.write(path, pem, PRIVATE)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    files.write(path, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
    )


def _name(common_name: str, group: str) -> x509.Name:
    # Kubernetes reads the organisation as the user's group and the common name as the user.
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _ca_usage() -> x509.KeyUsage:
    # Python 3.13 and later refuse an authority that does not say that it may sign certificates.
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
