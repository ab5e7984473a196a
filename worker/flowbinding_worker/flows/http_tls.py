"""TLS to flow servers, with the certificates that the Secrets hold now."""

from __future__ import annotations

import ssl

import httpx

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.flow_http import FlowTls
from flowbinding_api.tls import UNUSABLE, client_context, load_certificate
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import misconfigured


class TlsContext:
    """The context for new connections to one server; made again when a Secret has changed.

    Args:
        tls: The user's; None for the system's authorities and no certificate.
        files: Where its Secrets are mounted.
        field: Path of `tls`, for messages.
        of_flow: False for another server than the flow's: the system's authorities count as well
            there, and no certificate of ours is shown.
    """

    def __init__(
        self, tls: FlowTls | None, files: Files, field: str, *, of_flow: bool = True
    ) -> None:
        self._tls = tls or FlowTls()
        self._files = files
        self._field = field
        self._of_flow = of_flow
        self._contents: tuple[bytes | None, ...] = ()
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The same object as long as no Secret changes.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing or FlowMisconfigured.
        """
        contents = self._read()
        if self._context is None or contents != self._contents:
            self._context = self._made(*contents)
            self._contents = contents
        return self._context

    def _read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        tls, files, field = self._tls, self._files, self._field
        ca = None
        if tls.ca_secret_ref is not None:
            ca = files.name(tls.ca_secret_ref, f"{field}.caSecretRef")
        if not self._of_flow or tls.certificate_secret_ref is None or tls.key_secret_ref is None:
            return ca, None, None
        certificate = files.name(tls.certificate_secret_ref, f"{field}.certificateSecretRef")
        return ca, certificate, files.secret(tls.key_secret_ref, f"{field}.keySecretRef")

    def _made(
        self, ca: bytes | None, certificate: bytes | None, key: bytes | None
    ) -> ssl.SSLContext:
        try:
            if ca is not None and self._of_flow:
                context = client_context(ca)
            else:
                context = httpx.create_ssl_context()
                if ca is not None:
                    context.load_verify_locations(cadata=ca.decode())
        except (OSError, *UNUSABLE) as error:
            # Also files that SSL_CERT_FILE names, which may be missing.
            raise _unusable(f"{self._field}.caSecretRef", self._tls.ca_secret_ref, error) from None
        if certificate is not None and key is not None:
            try:
                load_certificate(context, certificate, key)
            except UNUSABLE as error:
                ref = self._tls.certificate_secret_ref
                raise _unusable(f"{self._field}.certificateSecretRef", ref, error) from None
        return context


def _unusable(field: str, ref: SecretKeyRef | None, error: Exception) -> Exception:
    what = getattr(error, "reason", None) or type(error).__name__
    place = f"Secret {ref.name}, key {ref.key}" if ref is not None else "the system's certificates"
    with_key = "; it and the key of keySecretRef must be a pair, without a passphrase"
    return misconfigured(
        f"{field}: {place}: no usable PEM ({what})"
        f"{with_key if field.endswith('.certificateSecretRef') else ''}"
    )
