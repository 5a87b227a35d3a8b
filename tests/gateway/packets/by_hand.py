"""IP packets put together octet by octet, so that anything about them can be wrong."""

from __future__ import annotations

import struct

from gateway.packets.checksum import internet_checksum
from policies.addresses import Address
from policies.facts import TCP_ACK, TCP_SYN, UDP

V4 = (Address.parse("10.0.1.5"), Address.parse("10.0.2.6"))
V6 = (Address.parse("fd00:1::5"), Address.parse("fd00:2::6"))

DATAGRAM = struct.pack("!HHHH", 49153, 53, 12, 0) + b"data"
SEGMENT = struct.pack("!HHIIBBHHH", 49153, 80, 1, 2, 5 << 4, TCP_SYN | TCP_ACK, 512, 0, 0) + b"data"
RECORD_ROUTE = bytes([7, 7, 4, 0, 0, 0, 0])
ROUTER_ALERT = bytes([0x94, 4, 0, 0])
STREAM = bytes([0x88, 4, 0, 9])


def ipv4(
    payload: bytes,
    *,
    protocol: int = UDP,
    options: bytes = b"",
    fragment: int = 0,
    identification: int = 77,
    total: int | None = None,
    ihl: int | None = None,
) -> bytes:
    """Build a packet octet by octet, with a right header checksum and anything else wrong."""
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    first = 0x40 | (length // 4 if ihl is None else ihl)
    total = length + len(payload) if total is None else total
    header = struct.pack("!BBHHHBBH", first, 0x2E, total, identification, fragment, 9, protocol, 0)
    header += V4[0] + V4[1] + options
    covered = (header + payload)[: (first & 15) * 4]
    return header[:10] + internet_checksum(covered).to_bytes(2) + header[12:] + payload


def ipv6(payload: bytes, following: int = UDP, *, length: int | None = None) -> bytes:
    header = struct.pack("!IHBB", 6 << 28 | 0x2E << 20 | 0xABCDE, 0, following, 9) + V6[0] + V6[1]
    return header[:4] + (len(payload) if length is None else length).to_bytes(2) + header[6:] + payload


def extension(following: int, data: bytes = bytes(6)) -> bytes:
    return bytes([following, (len(data) - 6) // 8]) + data


def fragment_header(following: int, offset: int, more: bool, identification: int = 77) -> bytes:
    return struct.pack("!BBHI", following, 0, offset | more, identification)
