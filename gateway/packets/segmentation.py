"""What a network card would have done: finish a checksum, cut a super-packet into segments.

A local stack leaves both to the hardware. Whoever reads its frames from a VM's
port gets them unfinished, with a virtio_net_hdr that says what is left to do.
"""

from __future__ import annotations

import struct

from gateway.packets import ethernet, ip
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.errors import MalformedPacket
from policies.facts import TCP, TCP_FIN, UDP, PacketFacts

_WORD = struct.Struct("!H")
_SEQUENCE = struct.Struct("!I")

_SOURCE_ROUTES = (0x83, 0x89)  # loose and strict (RFC 791 section 3.1)
_SEGMENTS_LEFT = 3  # an octet of IPv6's routing header (RFC 8200 section 4.4)

_TCP_PSH = 0x08
_TCP_CWR = 0x80
_LAST_ONLY = TCP_FIN | _TCP_PSH


def finish_checksum(frame: bytes, start: int, offset: int) -> bytes:
    """Complete the checksum at `start + offset`, which holds the sum of the pseudo header.

    It covers everything from `start` on. A result of 0 is written as 0xFFFF, which says the same
    and is what UDP needs (RFC 768). Raises MalformedPacket if the frame ends before the field.
    """
    field = start + offset
    if field + 2 > len(frame):
        raise MalformedPacket(f"a checksum at {field} in a frame of {len(frame)} octets")
    checksum = internet_checksum(frame[start:]) or 0xFFFF
    return frame[:field] + _WORD.pack(checksum) + frame[field + 2 :]


def segment(frame: bytes, segment_size: int) -> list[bytes]:
    """Cut a TCP super-packet, or several UDP datagrams in one, into frames of `segment_size` octets of data.

    The headers are repeated and every checksum is computed, whatever it was before. Raises
    MalformedPacket for what is neither TCP nor UDP, for a fragment, and for a packet with
    a source route, whose checksum covers an address that its header does not show.
    """
    ethertype = ethernet.decode_untrusted(frame).ethertype
    packet = frame[ethernet.HEADER_LENGTH :]
    facts = ip.decode_untrusted(packet)
    if ethertype != (ethernet.IPV4 if facts.version == 4 else ethernet.IPV6):
        raise MalformedPacket(f"an IPv{facts.version} packet in a frame of type {ethertype:#06x}")
    if facts.is_fragment or facts.protocol not in (TCP, UDP):
        raise MalformedPacket("only whole TCP and UDP packets are cut into segments")
    if _is_source_routed(packet, facts):
        raise MalformedPacket("a packet with a source route is not cut into segments")
    if segment_size < 1:
        raise MalformedPacket(f"segments of {segment_size} octets")
    upper = facts.header_length
    data = upper + (8 if facts.protocol == UDP else (packet[upper + 12] >> 4) * 4)
    end = facts.total_length
    frames = []
    for number, position in enumerate(range(data, max(end, data + 1), segment_size)):
        payload = packet[position : min(position + segment_size, end)]
        last = position + segment_size >= end
        header = bytearray(packet[upper:data])
        if facts.protocol == UDP:
            _WORD.pack_into(header, 4, len(header) + len(payload))
            checksum_at = 6
        else:
            _advance(header, position - data, first=number == 0, last=last)
            checksum_at = 16
        _WORD.pack_into(header, checksum_at, 0)
        checksum = transport_checksum(facts.source, facts.destination, facts.protocol, header + payload)
        _WORD.pack_into(header, checksum_at, checksum)
        network = _network_header(packet, facts, len(header) + len(payload), number)
        frames.append(frame[: ethernet.HEADER_LENGTH] + network + header + payload)
    return frames


def _is_source_routed(packet: bytes, facts: PacketFacts) -> bool:
    if facts.version == 4:
        return any(option[0] in _SOURCE_ROUTES for option in ip.ipv4_options(packet[: facts.header_length]))
    extensions = ip.ipv6_extensions(packet, facts.header_length)
    return any(kind == ip.ROUTING and header[_SEGMENTS_LEFT] > 0 for kind, header in extensions)


def _advance(header: bytearray, octets: int, *, first: bool, last: bool) -> None:
    (sequence,) = _SEQUENCE.unpack_from(header, 4)
    _SEQUENCE.pack_into(header, 4, sequence + octets & 0xFFFFFFFF)
    if not last:
        header[13] &= ~_LAST_ONLY & 0xFF
    if not first:
        # RFC 3168 section 6.1.2: CWR answers once.
        header[13] &= ~_TCP_CWR & 0xFF


def _network_header(packet: bytes, facts: PacketFacts, payload_length: int, number: int) -> bytes:
    header = bytearray(packet[: facts.header_length])
    if facts.version == 6:
        _WORD.pack_into(header, 4, len(header) - ip.IPV6_HEADER_LENGTH + payload_length)
        return bytes(header)
    _WORD.pack_into(header, 2, len(header) + payload_length)
    _WORD.pack_into(header, 4, facts.identification + number & 0xFFFF)
    _WORD.pack_into(header, 10, 0)
    _WORD.pack_into(header, 10, internet_checksum(header))
    return bytes(header)
