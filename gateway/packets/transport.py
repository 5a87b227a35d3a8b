"""What forwarding needs of TCP and UDP: the MSS kept within the path, and a hash that names a flow."""

from __future__ import annotations

import struct

from gateway.packets.checksum import update
from policies.facts import TCP, TCP_SYN, PacketFacts

_IPV4_ENDS = struct.Struct("<Q")
_IPV6_ENDS = struct.Struct("<4Q")
_ODD = 0x9E37_79B9_7F4A_7C15
_ALL = 0xFFFF_FFFF_FFFF_FFFF
_WORD = struct.Struct("!H")

_TCP_HEADER_LENGTH = 20
_TCP_CHECKSUM = 16
_END_OF_OPTIONS = 0
_NO_OPERATION = 1
_MAXIMUM_SEGMENT_SIZE = 2


def flow_id(facts: PacketFacts) -> int:
    """Return a number from 0 to 255 that is the same for every packet of a flow, in every process.

    A fragment is named by its addresses alone: a later one has no ports, and in IPv6
    may not even know its protocol, and all fragments of a packet must go one way.
    The fast path's packets.h computes the same.
    """
    words = _IPV4_ENDS if len(facts.source) == 4 else _IPV6_ENDS
    hashed = 0
    for word in words.unpack(facts.source + facts.destination):
        hashed = (hashed ^ word) * _ODD & _ALL
        hashed ^= hashed >> 32
    if not facts.more_fragments and not facts.fragment_offset:
        hashed ^= facts.destination_port | facts.source_port << 16 | facts.protocol << 32
    hashed *= _ODD
    return (hashed ^ hashed >> 32) & 0xFF


def clamp_mss(packet: bytes, facts: PacketFacts, limit: int) -> bytes:
    """Return the packet with the MSS that a TCP SYN announces lowered to `limit`, or the same object.

    A SYN without the option is left alone: its sender means the default of RFC 9293
    section 3.7.1, which every path carries. Options that make no sense end the search.
    """
    if facts.protocol != TCP or not facts.tcp_flags & TCP_SYN:
        return packet
    start = facts.header_length
    end = min(start + (packet[start + 12] >> 4) * 4, facts.total_length)
    changed: bytearray | None = None
    position = start + _TCP_HEADER_LENGTH
    while position + 1 < end:
        kind = packet[position]
        if kind == _END_OF_OPTIONS:
            break
        if kind == _NO_OPERATION:
            position += 1
            continue
        length = packet[position + 1]
        if length < 2 or position + length > end:
            break
        # Receivers take the last of several, so all are lowered.
        if kind == _MAXIMUM_SEGMENT_SIZE and length == 4:
            (announced,) = _WORD.unpack_from(packet, position + 2)
            if announced > limit:
                if changed is None:
                    changed = bytearray(packet)
                _lower(changed, start, position + 2, announced, limit)
        position += length
    return packet if changed is None else bytes(changed)


def _lower(packet: bytearray, start: int, position: int, old: int, new: int) -> None:
    _WORD.pack_into(packet, position, new)
    if position - start & 1:
        # The value straddles two words of the sum, which is the same as its octets swapped.
        old, new = (old & 0xFF) << 8 | old >> 8, (new & 0xFF) << 8 | new >> 8
    (checksum,) = _WORD.unpack_from(packet, start + _TCP_CHECKSUM)
    _WORD.pack_into(packet, start + _TCP_CHECKSUM, update(checksum, old, new))
