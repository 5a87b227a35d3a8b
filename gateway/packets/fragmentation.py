"""Fragmentation of IPv4 (RFC 791 section 3.2), as a router does it where the next link is too small."""

from __future__ import annotations

import struct

from gateway.packets import ip
from gateway.packets.checksum import internet_checksum
from policies.facts import PacketFacts

# RFC 791 section 3.2: every link carries this much without fragmenting further.
LOWEST_IPV4_MTU = 68

_WORD = struct.Struct("!H")
_MORE_FRAGMENTS = 0x2000


def fragment(packet: bytes, facts: PacketFacts, mtu: int) -> list[bytes]:
    """Return an IPv4 packet as fragments of at most `mtu` octets (RFC 791 section 3.2); a fragment likewise.

    Raises ValueError for IPv6, which routers never fragment, for a packet with DF, and for
    an MTU that no IPv4 link may have.
    """
    if facts.version != 4 or facts.dont_fragment:
        raise ValueError("this packet may not be fragmented")
    if mtu < LOWEST_IPV4_MTU:
        raise ValueError(f"an MTU of {mtu} is below the {LOWEST_IPV4_MTU} octets of every IPv4 link")
    start, end = facts.header_length, facts.total_length
    if end <= mtu:
        return [packet[:end]]
    header = packet[:start]
    fragments = []
    position = start
    while position < end:
        room = (mtu - len(header)) // 8 * 8
        data = packet[position : min(position + room, end)]
        more = facts.more_fragments or position + len(data) < end
        words = facts.fragment_offset + position - start >> 3
        fragments.append(_fragment_header(header, len(data), words, more) + data)
        if position == start:
            header = _header_of_later_fragments(header)
        position += len(data)
    return fragments


def _fragment_header(header: bytes, data_length: int, words: int, more: bool) -> bytes:
    fields = bytearray(header)
    _WORD.pack_into(fields, 2, len(header) + data_length)
    _WORD.pack_into(fields, 6, words | (_MORE_FRAGMENTS if more else 0))
    _WORD.pack_into(fields, 10, 0)
    _WORD.pack_into(fields, 10, internet_checksum(fields))
    return bytes(fields)


def _header_of_later_fragments(header: bytes) -> bytes:
    """Keep those options whose copied flag is set (RFC 791 section 3.1)."""
    options = b"".join(option for option in ip.ipv4_options(header) if option[0] & 0x80)
    options += bytes(-len(options) % 4)
    first = 4 << 4 | (ip.IPV4_HEADER_LENGTH + len(options)) // 4
    return bytes([first]) + header[1 : ip.IPV4_HEADER_LENGTH] + options
