"""Undoes what GRO did on the way in: a packet larger than the underlay carries is several."""

from __future__ import annotations

from gateway.packets import ethernet, ip, nvgre
from gateway.packets.segmentation import segment
from policies.errors import MalformedPacket
from policies.facts import TCP, PacketFacts

# 64 kB in segments of 536 octets, the smallest that anybody sends in bulk (RFC 9293 section 3.7.1),
# are 122. More would only multiply what somebody sent us to do harm.
MOST_PIECES = 128

# GRO merges only segments without IPv4 options or IPv6 extension headers.
_PLAIN_HEADERS = {4: ip.IPV4_HEADER_LENGTH, 6: ip.IPV6_HEADER_LENGTH}


def split_untrusted(payload: bytes, largest: int) -> list[bytes]:
    """Cut a merged NVGRE packet into packets of at most `largest` octets, GRE header included.

    Only plain TCP segments are merged. Anything else of that size was reassembled
    from fragments, which RFC 7637 section 4.4 lets us take, or is malformed or meant
    to become more than `MOST_PIECES`: it is returned whole, and whoever reads it next
    judges it.
    """
    try:
        nvgre.decode_untrusted(payload)
        frames = _frames(payload[nvgre.HEADER_LENGTH :], largest - nvgre.HEADER_LENGTH)
    except MalformedPacket:
        return [payload]
    header = payload[: nvgre.HEADER_LENGTH]
    return [header + each for each in frames]


def split_packet_untrusted(packet: bytes, largest: int) -> list[bytes]:
    """Cut an IP packet that was merged into packets of `largest` octets; any other is returned whole."""
    ethertype = ethernet.IPV4 if packet[0] >> 4 == 4 else ethernet.IPV6
    header = ethernet.EthernetHeader(bytes(6), bytes(6), ethertype).encode()
    try:
        frames = _frames(header + packet, largest + ethernet.HEADER_LENGTH)
    except MalformedPacket:
        return [packet]
    return [each[ethernet.HEADER_LENGTH :] for each in frames]


def _frames(frame: bytes, largest: int) -> list[bytes]:
    """Raises MalformedPacket for what is not cut."""
    facts = ip.decode_untrusted(frame[ethernet.HEADER_LENGTH :])
    if not _may_be_merged(facts):
        raise MalformedPacket("not a plain TCP segment")
    headers = facts.header_length + (frame[ethernet.HEADER_LENGTH + facts.header_length + 12] >> 4) * 4
    room = largest - ethernet.HEADER_LENGTH - headers
    if facts.total_length - headers > MOST_PIECES * room:
        raise MalformedPacket(f"a merged packet of more than {MOST_PIECES} segments")
    return segment(frame, room)


def _may_be_merged(facts: PacketFacts) -> bool:
    return (
        facts.protocol == TCP
        and not facts.is_fragment
        and facts.header_length == _PLAIN_HEADERS[facts.version]
    )
