"""The underlay as it was on the wire: read back from a capture, and forged by a stranger."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.lab.capture import read_frames
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, TCP_SYN, UDP, PacketFacts

GRE = 47
TCP_HEADER_LENGTH = 20
MSS_OPTION = b"\x02\x04"
PROTOCOL_NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPv6"}
ECHO_NAMES = {
    (ICMP, 8): "echo request",
    (ICMP, 0): "echo reply",
    (ICMPV6, 128): "echo request",
    (ICMPV6, 129): "echo reply",
}


class Carried(msgspec.Struct, frozen=True):
    """One NVGRE packet with an ICMP echo in it."""

    outer_source: ProviderAddress
    outer_destination: ProviderAddress
    vsid: int
    flow_id: int
    source: CustomerAddress
    destination: CustomerAddress
    hop_limit: int
    what: str


class Packet(msgspec.Struct, frozen=True):
    """One IP packet of the underlay, as anybody there sees it."""

    octets: bytes
    facts: PacketFacts

    @property
    def version(self) -> int:
        return self.facts.version

    @property
    def source(self) -> str:
        return str(ProviderAddress(self.facts.source))

    @property
    def destination(self) -> str:
        return str(ProviderAddress(self.facts.destination))

    @property
    def protocol(self) -> str:
        """Its upper layer's name, or number where it is none of the usual ones."""
        return PROTOCOL_NAMES.get(self.facts.protocol, str(self.facts.protocol))

    @property
    def is_whole(self) -> bool:
        """Whether it is no fragment."""
        return not self.facts.is_fragment

    @property
    def segment(self) -> bytes:
        """What is behind the IP headers."""
        return self.octets[self.facts.header_length :]

    @property
    def is_sound(self) -> bool:
        """Whether its checksums are right: that of the IPv4 header, and of whole TCP, UDP and ICMP."""
        facts = self.facts
        if facts.version == 4 and internet_checksum(self.octets[: facts.header_length]):
            return False
        if not self.is_whole or facts.protocol not in PROTOCOL_NAMES:
            return True
        if facts.protocol == ICMP:
            return internet_checksum(self.segment) == 0
        checksum = transport_checksum(facts.source, facts.destination, facts.protocol, self.segment)
        return checksum == (0xFFFF if facts.protocol == UDP else 0)

    @property
    def mss(self) -> int | None:
        """The segment size that a SYN offers; Linux does before any other option."""
        options = self.segment[TCP_HEADER_LENGTH:]
        is_offered = self.facts.tcp_flags & TCP_SYN and options[:2] == MSS_OPTION
        return int.from_bytes(options[2:4]) if is_offered else None

    def __str__(self) -> str:
        words = [self.protocol, _echo(self.facts), self.facts.dont_fragment and "DF"]
        words.append(None if self.is_whole else "fragment")
        said = " ".join(word for word in words if word)
        return f"{self.source} > {self.destination}: {said}, {len(self.octets)} octets"


def packets(capture: Path) -> Iterator[Packet]:
    """Read the IP packets of a capture of an underlay interface."""
    for frame in read_frames(capture):
        octets = frame[ethernet.HEADER_LENGTH :]
        try:
            facts = ip.decode_untrusted(octets)
        except MalformedPacket:
            continue  # ARP, for instance
        yield Packet(octets[: facts.total_length], facts)


def echoes(capture: Path) -> Iterator[Carried]:
    """Read the ICMP echoes, within NVGRE, of a capture of an underlay interface."""
    for frame in read_frames(capture):
        carried = _decode(frame)
        if carried is not None:
            yield carried


def _decode(frame: bytes) -> Carried | None:
    try:
        outer_packet = frame[ethernet.HEADER_LENGTH :]
        outer = ip.decode_untrusted(outer_packet)
        if outer.protocol != GRE:
            return None
        payload = outer_packet[outer.header_length : outer.total_length]
        header = nvgre.decode_untrusted(payload)
        inner = ip.decode_untrusted(payload[nvgre.HEADER_LENGTH + ethernet.HEADER_LENGTH :])
    except MalformedPacket:
        return None  # ARP, for instance
    what = _echo(inner)
    if what is None:
        return None
    return Carried(
        ProviderAddress(outer.source),
        ProviderAddress(outer.destination),
        header.vsid,
        header.flow_id,
        CustomerAddress(inner.source),
        CustomerAddress(inner.destination),
        inner.hop_limit,
        what,
    )


def _echo(facts: PacketFacts) -> str | None:
    return ECHO_NAMES.get((facts.protocol, facts.icmp_type))


def forge_echo_requests(
    gateway: str, vsid: int, source_mac: str, source: str, destination: str, count: int
) -> None:
    """Send NVGRE packets to a gateway, as anybody in the underlay can. Call it inside a namespace."""
    echo = b"\x08\x00\x00\x00forged.."
    echo = echo[:2] + internet_checksum(echo).to_bytes(2) + echo[4:]
    packet = ip.build(CustomerAddress.parse(source), CustomerAddress.parse(destination), ICMP, echo)
    header = ethernet.EthernetHeader(gateway_mac(Vsid(vsid)), MacAddress.parse(source_mac), ethernet.IPV4)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE) as sock:
        for _ in range(count):
            sock.sendto(nvgre.encode(vsid) + header.encode() + packet, (gateway, 0))


def forge_plain_echo_requests(source: str, destination: str, count: int) -> None:
    """Send plain packets from any address to any, as anybody in the underlay can. Call it in a namespace."""
    ours, theirs = (ProviderAddress.parse(each) for each in (source, destination))
    is_ipv4 = theirs.version == 4
    protocol, kind = (ICMP, 8) if is_ipv4 else (ICMPV6, 128)
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number in range(count):
            echo = bytes([kind]) + bytes(4) + number.to_bytes(3) + b"forged.."
            checksum = (
                internet_checksum(echo) if is_ipv4 else transport_checksum(ours, theirs, protocol, echo)
            )
            echo = echo[:2] + checksum.to_bytes(2) + echo[4:]
            sock.sendto(ip.build(ours, theirs, protocol, echo), (destination, 0))
