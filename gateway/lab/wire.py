"""NVGRE as it was on the wire: read back from a capture, and forged by a stranger."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.lab.capture import read_frames
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.checksum import internet_checksum
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, PacketFacts

GRE = 47
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
