"""The Internet checksum: computed (RFC 1071) and updated (RFC 1624).

The one's complement sum of 16-bit words is the number that the words spell,
modulo 0xFFFF, because 2**16 leaves the remainder 1. So one division of one
large integer does what a loop over the words would. The sum has two zeros:
it is 0 only where every word is, and 0xFFFF otherwise.
"""

from __future__ import annotations

from policies.facts import UDP


def internet_checksum(data: bytes | bytearray) -> int:
    """Return the checksum of `data`; data that holds its own right checksum gives 0."""
    number = int.from_bytes(data)
    if len(data) & 1:
        number <<= 8  # RFC 1071 section 1: an odd octet is padded with a zero behind it
    remainder = number % 0xFFFF
    if remainder:
        return 0xFFFF - remainder
    return 0 if number else 0xFFFF


def update(checksum: int, old: int, new: int) -> int:
    """Return a checksum after one 16-bit word that it covers changed from `old` to `new`.

    This is equation 3 of RFC 1624. Only all zeros are beyond it, whose checksum is 0xFFFF; no header
    with a version or a protocol is that. A checksum that was wrong stays wrong, so the damage is
    still found where it should be.
    """
    total = 0x1FFFE - checksum - old + new
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total & 0xFFFF) + (total >> 16))


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes | bytearray) -> int:
    """Return the checksum of a segment behind the pseudo header of the addresses' family.

    RFC 9293 section 3.1 has the IPv4 one, RFC 8200 section 8.1 the IPv6 one. ICMP over
    IPv4 has none: use `internet_checksum`. UDP's zero is 0xFFFF, as 0 says that there is no checksum
    (RFC 768), so a right UDP segment that holds its checksum gives 0xFFFF and any other 0.
    """
    remainder = int.from_bytes(segment) % 0xFFFF
    if len(segment) & 1:
        remainder <<= 8
    checksum = -(remainder + int.from_bytes(source + destination) + protocol + len(segment)) % 0xFFFF
    return 0xFFFF if checksum == 0 and protocol == UDP else checksum
