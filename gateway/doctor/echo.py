"""ICMP echo requests with DF set, and what comes back for them, as octets.

RFC 792 and RFC 4443. The kernel writes the IP headers, and the checksum of ICMPv6.
"""

from __future__ import annotations

import struct

import msgspec

from gateway.packets.checksum import internet_checksum

IP_HEADER = {4: 20, 6: 40}
ICMP_HEADER = 8
SMALLEST = {4: IP_HEADER[4] + ICMP_HEADER + 8, 6: IP_HEADER[6] + ICMP_HEADER + 8}
"""The first packet that is tried, in octets."""

_HEADER = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_UNREACHABLE = {4: 3, 6: 1}
_FRAGMENTATION_NEEDED = 4
_PACKET_TOO_BIG_V6 = 2


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
    message = head + bytes(size - IP_HEADER[version] - ICMP_HEADER)
    if version == 4:
        return message[:2] + internet_checksum(message).to_bytes(2) + message[4:]
    return message


def decode_untrusted(version: int, octets: bytes) -> Reply | TooBig | Unreachable | None:
    """Return what a raw socket has received, where that concerns us: IPv4 comes with its header."""
    if version == 4:
        if len(octets) < IP_HEADER[4]:
            return None
        octets = octets[4 * (octets[0] & 0x0F) :]
    if len(octets) < ICMP_HEADER:
        return None
    kind, code, _, first, second = _HEADER.unpack_from(octets)
    if kind == _REPLY[version] and code == 0:
        return Reply(first, second)
    quoted = octets[ICMP_HEADER:]
    if len(quoted) < IP_HEADER[version]:
        return None
    destination = quoted[16:20] if version == 4 else quoted[24:40]
    if version == 4 and (kind, code) == (_UNREACHABLE[4], _FRAGMENTATION_NEEDED):
        return TooBig(destination, second)  # RFC 1191 section 4
    if version == 6 and kind == _PACKET_TOO_BIG_V6:
        return TooBig(destination, first << 16 | second)  # RFC 4443 section 3.2
    return Unreachable(destination) if kind == _UNREACHABLE[version] else None
