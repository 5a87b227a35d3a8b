"""Who a peer says it is (RFC 7296 section 3.5), and whether that is who we expect.

Identities are compared as what they mean, not as octets: domain names without regard to case,
distinguished names by their attributes, whatever kind of string carries them.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from functools import lru_cache

import msgspec
from cryptography import x509

from policies.errors import MalformedPacket
from tunnels.ike import names
from tunnels.ike.constants import IdType

_KEY_ID_PREFIX = "keyid:"


class Identity(msgspec.Struct, frozen=True):
    """An identity as the ID payloads carry it; of an unknown type it matches nothing but itself."""

    type: IdType | int
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read what an operator writes: a domain name, a mail address, an address, a name or a key ID.

        A distinguished name is written as "C=CH, O=Red, CN=edge-1", in the order of its encoding; a
        key ID as "keyid:0badcafe", in hexadecimal. Raises ValueError.
        """
        if text.startswith(_KEY_ID_PREFIX):
            return cls(IdType.KEY_ID, _hexadecimal(text))
        if "=" in text:
            return cls(IdType.DER_DN, names.parse(text).public_bytes())
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            pass
        else:
            kind = IdType.IPV4_ADDRESS if address.version == 4 else IdType.IPV6_ADDRESS
            return cls(kind, address.packed)
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{text!r} is not an identity")
        return cls(IdType.RFC822_ADDRESS if "@" in text else IdType.FQDN, text.encode())

    def matches(self, other: Identity) -> bool:
        """Whether both name the same peer. Any octets may be in either; they need not be valid."""
        return self == other or (self.type == other.type and _meaning(self) == _meaning(other))

    def __str__(self) -> str:
        if self.type == IdType.KEY_ID:
            return f"{_KEY_ID_PREFIX}{self.data.hex()}"
        if self.type in (IdType.FQDN, IdType.RFC822_ADDRESS):
            text = self.data.decode("ascii", "backslashreplace")
            return text if text.isprintable() else repr(text)[1:-1]
        if (self.type == IdType.IPV4_ADDRESS and len(self.data) == 4) or (
            self.type == IdType.IPV6_ADDRESS and len(self.data) == 16
        ):
            return str(ipaddress.ip_address(self.data))
        if self.type == IdType.DER_DN:
            try:
                return names.shown(names.decode_untrusted(self.data))
            except MalformedPacket:
                pass
        return f"identity of type {int(self.type)}: {self.data.hex()}"


# A stranger's name is compared with that of every site, and need not be read for each.
@lru_cache(maxsize=512)
def _meaning(identity: Identity) -> object:
    data = identity.data
    if identity.type == IdType.FQDN:
        return data.lower()
    if identity.type == IdType.RFC822_ADDRESS:
        mailbox, _, domain = data.rpartition(b"@")
        return mailbox, domain.lower()
    if identity.type == IdType.DER_DN:
        with suppress(MalformedPacket):
            return names.folded(names.decode_untrusted(data))
    return data


def identities_of(certificate: x509.Certificate) -> list[Identity]:
    """Return whom a certificate names: its subject and its alternative names (RFC 4945 section 3.1).

    Raises ValueError, or what else the library says of a certificate that cannot be read.
    """
    found = [Identity(IdType.DER_DN, certificate.subject.public_bytes())] if certificate.subject.rdns else []
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return found
    for each in alternative:
        if isinstance(each, x509.DNSName):
            found.append(Identity(IdType.FQDN, each.value.encode()))
        elif isinstance(each, x509.RFC822Name):
            found.append(Identity(IdType.RFC822_ADDRESS, each.value.encode()))
        elif isinstance(each, x509.IPAddress):
            if isinstance(each.value, ipaddress.IPv4Address):
                found.append(Identity(IdType.IPV4_ADDRESS, each.value.packed))
            elif isinstance(each.value, ipaddress.IPv6Address):
                found.append(Identity(IdType.IPV6_ADDRESS, each.value.packed))
    return found


def _hexadecimal(text: str) -> bytes:
    digits = text.removeprefix(_KEY_ID_PREFIX)
    if not re.fullmatch(r"([0-9A-Fa-f]{2})+", digits):
        raise ValueError(f"{text!r} is not a key ID in hexadecimal")
    return bytes.fromhex(digits)
