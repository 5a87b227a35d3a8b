"""What proves to a lookup node who we are, read again whenever its files change."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.http.renewed import Renewed
from policies.secret import Secret
from policies.services import LookupAccess


def token(access: LookupAccess) -> Renewed[Secret] | None:
    """The token for the Authorization header. Raises ConfigurationError."""
    file = access.token_file
    return Renewed("lookup", (file,), lambda: _read_token(file)) if file is not None else None


def tls(access: LookupAccess) -> Renewed[ssl.SSLContext]:
    """How nodes are verified, and how we show who we are. Raises ConfigurationError."""
    files = (access.authority_file, access.certificate_file, access.key_file)
    return Renewed("lookup", files, lambda: _context(access))


def _read_token(file: Path) -> Secret:
    found = file.read_bytes().strip()
    if not found or not all(0x21 <= octet <= 0x7E for octet in found):
        raise ValueError("a token is one word of printable ASCII")
    return Secret(found)


def _context(access: LookupAccess) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.authority_file)
    if access.certificate_file is not None:
        context.load_cert_chain(access.certificate_file, access.key_file)
    return context
