"""A packet in one line, as it would be told on the telephone. Nothing of it has to be well formed."""

from __future__ import annotations

from gateway.operating.seen import ESP, GRE
from gateway.packets import arp, ethernet, ip, nvgre
from policies.addresses import CustomerAddress, MacAddress
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, UDP, PacketFacts
from tunnels.effects import IKE_PORT, NAT_PORT
from tunnels.esp import wire as esp
from tunnels.ike.constants import ExchangeType
from tunnels.sockets import NON_ESP_MARKER

_NAMES = {ICMP: "icmp", ICMPV6: "icmp6", TCP: "tcp", UDP: "udp"}
_TCP_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x20, "U"), (0x10, "."))
_MESSAGES = {
    (ICMP, 0): "echo reply",
    (ICMP, 3): "unreachable",
    (ICMP, 8): "echo request",
    (ICMP, 11): "time exceeded",
    (ICMPV6, 1): "unreachable",
    (ICMPV6, 2): "packet too big",
    (ICMPV6, 3): "time exceeded",
    (ICMPV6, 128): "echo request",
    (ICMPV6, 129): "echo reply",
    (ICMPV6, 133): "router solicitation",
    (ICMPV6, 134): "router advertisement",
    (ICMPV6, 135): "neighbour solicitation",
    (ICMPV6, 136): "neighbour advertisement",
}
_IKE_HEADER_LENGTH = 28
_IKE_RESPONSE = 0x20
_NEEDS_FRAGMENTATION = (ICMP, 3, 4)


def of_frame_untrusted(frame: bytes) -> str:
    """Describe an Ethernet frame."""
    try:
        header = ethernet.decode_untrusted(frame)
        payload = frame[ethernet.HEADER_LENGTH :]
        if header.ethertype in (ethernet.ARP, ethernet.RARP):
            return _arp(arp.decode_untrusted(payload))
    except MalformedPacket as error:
        return f"malformed: {error}"
    if header.ethertype in (ethernet.IPV4, ethernet.IPV6):
        return of_packet_untrusted(payload)
    ends = f"{MacAddress(header.source)} > {MacAddress(header.destination)}"
    return f"{ends}: ethertype {header.ethertype:#06x}, {len(payload)} octets"


def of_packet_untrusted(packet: bytes) -> str:
    """Describe an IP packet."""
    try:
        facts = ip.decode_untrusted(packet)
    except MalformedPacket as error:
        return f"malformed: {error}"
    payload = packet[facts.header_length : facts.total_length]
    source, destination = CustomerAddress(facts.source), CustomerAddress(facts.destination)
    if facts.is_later_fragment:
        what = f"fragment at {facts.fragment_offset} of {facts.identification:#x}"
    elif facts.protocol == GRE:
        return f"{source} > {destination} {_gre(payload)}"
    elif facts.protocol == ESP:
        return f"{source} > {destination} {_esp(payload)}"
    elif facts.protocol == UDP and {IKE_PORT, NAT_PORT} & {facts.source_port, facts.destination_port}:
        return (
            f"{source}.{facts.source_port} > {destination}.{facts.destination_port} {_tunnel(facts, payload)}"
        )
    elif facts.protocol in (TCP, UDP):
        ends = f"{source}.{facts.source_port} > {destination}.{facts.destination_port}"
        flags = f" {_flags(facts.tcp_flags)}" if facts.protocol == TCP else ""
        return f"{ends}: {_NAMES[facts.protocol]}{flags}, {_size(facts)}"
    elif facts.protocol in (ICMP, ICMPV6):
        what = _icmp(facts, payload)
    else:
        what = f"protocol {facts.protocol}"
    return f"{source} > {destination}: {what}, {_size(facts)}"


def _size(facts: PacketFacts) -> str:
    return f"{facts.total_length} octets, ttl {facts.hop_limit}"


def _flags(flags: int) -> str:
    return "".join(letter for bit, letter in _TCP_FLAGS if flags & bit) or "none"


def _icmp(facts: PacketFacts, payload: bytes) -> str:
    kind = facts.protocol, facts.icmp_type
    name = _MESSAGES.get(kind, f"type {facts.icmp_type}")
    words = f"{_NAMES[facts.protocol]} {name}"
    if "echo" in name:
        return f"{words} seq {int.from_bytes(payload[6:8])}"
    if (*kind, facts.icmp_code) == _NEEDS_FRAGMENTATION:
        return f"{words}: fragmentation needed, MTU {int.from_bytes(payload[6:8])}"
    if kind == (ICMPV6, 2):
        return f"{words}, MTU {int.from_bytes(payload[4:8])}"
    return f"{words} code {facts.icmp_code}" if facts.icmp_code else words


def _arp(packet: arp.ArpPacket) -> str:
    sender, target = CustomerAddress(packet.sender_address), CustomerAddress(packet.target_address)
    if packet.operation == arp.REQUEST:
        return f"arp who has {target}? tell {sender} ({MacAddress(packet.sender_mac)})"
    if packet.operation == arp.REPLY:
        return f"arp {sender} is at {MacAddress(packet.sender_mac)}"
    return f"rarp of {MacAddress(packet.target_mac)}"


def _gre(payload: bytes) -> str:
    try:
        header = nvgre.decode_untrusted(payload)
    except MalformedPacket as error:
        return f"GRE, {error}"
    return f"NVGRE VSID {header.vsid}: {of_frame_untrusted(payload[nvgre.HEADER_LENGTH :])}"


def _tunnel(facts: PacketFacts, payload: bytes) -> str:
    message = payload[8:]
    shared = NAT_PORT in (facts.source_port, facts.destination_port)
    if shared and not message.startswith(NON_ESP_MARKER):
        return _esp(message) + " in UDP"
    return _ike(message.removeprefix(NON_ESP_MARKER) if shared else message)


def _ike(message: bytes) -> str:
    if len(message) < _IKE_HEADER_LENGTH:
        return f"IKE, {len(message)} octets are too short"
    kind, is_response = message[18], message[19] & _IKE_RESPONSE
    name = ExchangeType(kind).name if kind in set(ExchangeType) else f"exchange {kind}"
    way = "response" if is_response else "request"
    return f"IKE {name} {way} {int.from_bytes(message[20:24])}, {len(message)} octets"


def _esp(packet: bytes) -> str:
    try:
        spi, sequence = esp.decode_header_untrusted(packet)
    except MalformedPacket as error:
        return f"ESP, {error}"
    return f"ESP SPI {spi:08x} seq {sequence}, {len(packet)} octets"
