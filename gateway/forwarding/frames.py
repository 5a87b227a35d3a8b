"""What a frame carries: read before anything is decided about it."""

from __future__ import annotations

from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Arrival
from gateway.packets import arp, ethernet, ip, ndp
from gateway.packets.arp import ArpPacket
from policies.errors import MalformedPacket
from policies.facts import ICMPV6, PacketFacts

_NOT_ECT, _CE = 0, 3


def is_about_neighbours(parsed: ArpPacket | PacketFacts) -> bool:
    """ARP, and what takes its place in IPv6."""
    if isinstance(parsed, ArpPacket):
        return True
    return parsed.protocol == ICMPV6 and parsed.icmp_type in ndp.DISCOVERY


def sender(arrival: Arrival, parsed: ArpPacket | PacketFacts) -> tuple[bytes, bytes]:
    """Who says that it sent a frame: a MAC and an IP address."""
    if isinstance(parsed, ArpPacket):
        return parsed.sender_mac, parsed.sender_address
    return arrival.source_mac, parsed.source


def without_padding(frame: bytes, parsed: ArpPacket | PacketFacts) -> bytes:
    """Cut off what follows the packet: it would cross the underlay for nothing, or be too much for it."""
    length = arp.LENGTH if isinstance(parsed, ArpPacket) else parsed.total_length
    return frame[: ethernet.HEADER_LENGTH + length]


def parse_untrusted(frame: bytes) -> ArpPacket | PacketFacts | DropReason:
    """Return what an Ethernet frame carries, or why it goes no further."""
    try:
        header = ethernet.decode_untrusted(frame)
        payload = frame[ethernet.HEADER_LENGTH :]
        if header.ethertype in (ethernet.IPV4, ethernet.IPV6):
            facts = ip.decode_untrusted(payload)
            belongs = header.ethertype == ethernet.OF_IP_VERSION[facts.version]
            return facts if belongs else DropReason.MALFORMED
        if header.ethertype == ethernet.ARP:
            return arp.decode_untrusted(payload)
    except MalformedPacket:
        return DropReason.MALFORMED
    if header.ethertype in (ethernet.VLAN, ethernet.QINQ):
        return DropReason.VLAN_TAGGED
    return DropReason.NOT_IP


def ecn_on_arrival(inner: int, outer: int) -> int | None:
    """Combine the ECN fields of both headers, or None for a packet to be dropped (RFC 6040 section 4.2)."""
    if outer == _CE:
        return None if inner == _NOT_ECT else _CE
    if outer == 1 and inner == 2:
        return 1
    return inner
