"""ICMP echo requests with DF set, and what comes back for them, as octets.

RFC 792 and RFC 4443. The kernel writes the IP headers, and the checksum of ICMPv6.
"""

from __future__ import annotations

import struct

import msgspec

from gateway.packets import icmp, ip
from gateway.packets.checksum import internet_checksum

_HEADER = struct.Struct("!BBHHH")
_IP_HEADER = {4: ip.IPV4_HEADER_LENGTH, 6: ip.IPV6_HEADER_LENGTH}

SMALLEST = {version: length + _HEADER.size + 8 for version, length in _IP_HEADER.items()}
"""The first packet that is tried, in octets."""

_REQUEST = {4: icmp.ECHO_REQUEST, 6: icmp.V6_ECHO_REQUEST}
_REPLY = {4: icmp.ECHO_REPLY, 6: icmp.V6_ECHO_REPLY}
_UNREACHABLE = {4: icmp.UNREACHABLE, 6: icmp.V6_UNREACHABLE}


class Reply(msgspec.Struct, frozen=True):
    """An answer to one of our requests."""

    identifier: int
    sequence: int


class TooBig(msgspec.Struct, frozen=True):
    """A router says that a packet is too large for its next link, which carries so many octets."""

    destination: bytes
    mtu: int


class Unreachable(msgspec.Struct, frozen=True):
    """Somebody on the way says that a destination cannot be reached."""

    destination: bytes


def request(version: int, identifier: int, sequence: int, size: int) -> bytes:
    """Return a request whose IP packet has this size, in octets."""
    head = _HEADER.pack(_REQUEST[version], 0, 0, identifier, sequence)
    message = head + bytes(size - _IP_HEADER[version] - _HEADER.size)
    if version == 4:
        return message[:2] + internet_checksum(message).to_bytes(2) + message[4:]
    return message


def decode_untrusted(version: int, octets: bytes) -> Reply | TooBig | Unreachable | None:
    """Return what a raw socket has received, where that concerns us: IPv4 comes with its header."""
    if version == 4:
        if len(octets) < _IP_HEADER[4]:
            return None
        octets = octets[4 * (octets[0] & 0x0F) :]
    if len(octets) < _HEADER.size:
        return None
    kind, code, _, first, second = _HEADER.unpack_from(octets)
    if kind == _REPLY[version] and code == 0:
        return Reply(first, second)
    quoted = octets[_HEADER.size :]
    if len(quoted) < _IP_HEADER[version]:
        return None
    destination = quoted[16:20] if version == 4 else quoted[24:40]
    if version == 4 and (kind, code) == (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED):
        return TooBig(destination, second)  # RFC 1191 section 4
    if version == 6 and kind == icmp.V6_TOO_BIG:
        return TooBig(destination, first << 16 | second)  # RFC 4443 section 3.2
    return Unreachable(destination) if kind == _UNREACHABLE[version] else None
