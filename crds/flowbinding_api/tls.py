"""Certificates from Secrets, for TLS to Kafka and to flow servers. Nothing here connects."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

UNUSABLE = (ssl.SSLError, UnicodeDecodeError, ValueError)
"""What these functions raise for contents that are no certificates."""


def client_context(ca: bytes | None) -> ssl.SSLContext:
    """A context that checks the server's name and its certificate.

    Args:
        ca: Certificates (PEM) of the only authorities to trust; the system's when None. A user who
            names one does not mean "and every public one".

    Raises:
        ssl.SSLError, ValueError: `ca` is none.
    """
    if ca is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode())
    return context


def load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Have a context show a client certificate.

    Args:
        context: Changed.
        certificate: PEM, with the chain.
        key: PEM, without a passphrase.

    Raises:
        ssl.SSLError, ValueError: They are none, or no pair.
    """
    with _as_file(certificate + b"\n" + key) as path:
        # Without a passphrase of ours, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(path, password="")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to `content` for OpenSSL, which takes keys from files only.

    Memory where the system has it: a private key should not touch a disk, and a Pod's root file
    system is read-only.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
