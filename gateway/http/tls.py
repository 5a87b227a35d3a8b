"""The server's side of TLS, by files that are renewed while it runs."""

from __future__ import annotations

import ssl

from gateway.http.renewed import Renewed
from policies.services import ServerTls


def renewing_context(files: ServerTls, key: str) -> ssl.SSLContext:
    """Return the server's side of TLS, by what its files say at each handshake. Raises ConfigurationError.

    `key` is where the configuration names the files.
    """
    certificate = renewed_context(files, key)
    listening = certificate.value

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = certificate.value

    listening.sni_callback = choose
    return listening


def renewed_context(files: ServerTls, key: str) -> Renewed[ssl.SSLContext]:
    """Return TLS 1.2 and later by these files. Raises ConfigurationError."""
    named = (files.certificate_file, files.key_file, files.client_authority_file)
    return Renewed(key, named, lambda: _context(files))


def _context(files: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate_file, files.key_file)
    if files.client_authority_file is not None:
        context.load_verify_locations(files.client_authority_file)
        # Whoever has no certificate may have a token; one that is shown must be good.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
