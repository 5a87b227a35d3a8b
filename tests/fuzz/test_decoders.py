"""Any bytes decode or raise MalformedPacket; what was decoded can be carried on."""

from __future__ import annotations

import struct

import msgspec
import pytest

from gateway.packets import arp, dhcp, ethernet, fragmentation, icmp, ip, ndp, nvgre, segmentation, transport
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.packets.rewriting import rewritten
from policies.addresses import Address, MacAddress, Vsid, gateway_mac
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, UDP, PacketFacts
from tests.fuzz.decoding import Target, fuzz
from tests.fuzz.mutation import ipv4_checksum_at

MAC = MacAddress.parse("02:00:00:00:01:05")
ROUTER_MAC = gateway_mac(Vsid(5001))
V4 = (Address.parse("10.0.1.5"), Address.parse("10.0.2.6"))
V6 = (Address.parse("fd00:1::5"), Address.parse("fd00:2::6"))
V4_PROVIDER = (Address.parse("198.51.100.130"), Address.parse("203.0.113.7"))
V6_PROVIDER = (Address.parse("2001:db8:1::82"), Address.parse("2001:db8:2::7"))


def upper_layers(version: int) -> list[tuple[int, bytes]]:
    syn = struct.pack("!HHIIBBHHH", 49153, 80, 1, 0, 8 << 4, 2, 512, 0, 0) + bytes.fromhex(
        "020405b4 01010402 01030307"
    )
    data = struct.pack("!HHIIBBHHH", 49153, 80, 1, 9, 5 << 4, 0x98, 512, 0, 0) + bytes(range(200))
    echo = bytes([8 if version == 4 else 128, 0, 0, 0, 0, 1, 0, 1]) + bytes(range(56))
    return [
        (TCP, syn),
        (TCP, data),
        (UDP, struct.pack("!HHHH", 49153, 53, 208, 0) + bytes(range(200))),
        (ICMP if version == 4 else ICMPV6, echo),
        (47, nvgre.encode(5001, 7) + bytes(30)),
    ]


def packets() -> list[bytes]:
    valid = []
    for protocol, payload in upper_layers(4):
        whole = ip.build(*V4, protocol, payload)
        valid += [whole, icmp.time_exceeded(V4[1], whole, ip.decode_untrusted(whole))]
        with_options = bytearray(ip.ipv4_header(*V4, protocol, len(payload) + 8, dont_fragment=False))
        with_options[0] = 0x47
        with_options += bytes.fromhex("94040000 07040401")
        with_options[10:12] = bytes(2)
        with_options[10:12] = internet_checksum(with_options).to_bytes(2)
        valid += fragmentation.fragment(
            bytes(with_options) + payload, ip.decode_untrusted(bytes(with_options) + payload), 108
        )
    for protocol, payload in upper_layers(6):
        whole = ip.build(*V6, protocol, payload)
        valid += [whole, icmp.time_exceeded(V6[1], whole, ip.decode_untrusted(whole))]
        chain = bytes([ip.ROUTING]) + bytes(7) + bytes([ip.AUTHENTICATION]) + bytes(7)
        chain += bytes([ip.DESTINATION_OPTIONS, 1]) + bytes(10) + bytes([ip.FRAGMENT]) + bytes(7)
        chain += bytes([protocol, 0, 0, 0, 0, 0, 0, 7])
        valid.append(ip.build(*V6, ip.HOP_BY_HOP, chain + payload))
        valid.append(ip.build(*V6, ip.FRAGMENT, bytes([protocol, 0, 1, 0x41]) + bytes(4) + payload[:16]))
    return [*valid, *neighbour_discovery()]


def rewritable() -> list[bytes]:
    """Whatever there is, and errors about all of it."""
    valid = []
    for packet in packets():
        facts = ip.decode_untrusted(packet)
        source = (V4 if facts.version == 4 else V6)[1]
        valid += [packet, icmp.unreachable(source, packet, facts, icmp.Unreachable.HOST)]
    return valid


def neighbour_discovery() -> list[bytes]:
    return [
        ndp.encode_solicitation(V6[0], ndp.solicited_node(V6[1]), V6[1], MAC),
        ndp.encode_solicitation(bytes(16), ndp.solicited_node(V6[1]), V6[1], None),
        ndp.advertisement(V6[1], V6[0], V6[1], MAC, router=True, solicited=True),
    ]


def dhcp_messages() -> list[bytes]:
    discover = dhcp.DhcpMessage(
        operation=dhcp.REQUEST,
        message_type=dhcp.MessageType.DISCOVER,
        transaction=7637,
        flags=dhcp.BROADCAST,
        client_address=bytes(4),
        your_address=bytes(4),
        relay_address=bytes(4),
        hardware_address=MAC,
        options={
            dhcp.Option.REQUESTED_ADDRESS: V4[0],
            dhcp.Option.SERVER_IDENTIFIER: V4[1],
            dhcp.Option.CLIENT_IDENTIFIER: b"\x01" + MAC,
            55: bytes([1, 3, 26]),
        },
    ).encode()
    overloaded = bytearray(discover)
    overloaded[44:48] = bytes([12, 1, 0x61, dhcp.Option.END])
    overloaded[108:112] = bytes([15, 1, 0x62, dhcp.Option.END])
    end = overloaded.index(dhcp.Option.END, 240)
    overloaded[end : end + 4] = bytes([dhcp.Option.OVERLOAD, 1, 3, dhcp.Option.END])
    return [discover, bytes(overloaded)]


def dhcp_answer(payload: bytes) -> None:
    message = dhcp.decode_untrusted(payload)
    if all(len(value) < 256 for value in message.options.values()):
        assert dhcp.decode_untrusted(message.encode()) == message


def router_solicitations() -> list[bytes]:
    valid = []
    for source, option in ((V6[0], bytes([1, 1]) + MAC), (bytes(16), b"")):
        message = bytearray([ndp.ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]) + option
        packet = bytearray(
            ip.build(
                source,
                bytes.fromhex("ff02000000000000 0000000000000002"),
                ICMPV6,
                bytes(message),
                hop_limit=255,
            )
        )
        icmpv6_checksum(packet)
        valid.append(bytes(packet))
    return valid


def solicit_router(packet: bytes) -> None:
    ndp.check_router_solicitation_untrusted(packet, ip.decode_untrusted(packet))


def frames() -> list[bytes]:
    header = ROUTER_MAC + MAC
    return [
        header + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet for packet in packets()
    ] + [header + b"\x08\x06" + arp.ArpPacket(1, MAC, V4[0], bytes(6), V4[1]).encode()]


def carry_on(packet: bytes) -> None:
    """Do with an accepted packet whatever forwarding may do with it."""
    facts = ip.decode_untrusted(packet)
    assert facts.header_length <= facts.total_length <= len(packet)
    assert facts.quoted is None or facts.quoted.quoted is None
    assert 0 <= transport.flow_id(facts) <= 0xFF
    assert ip.decode_untrusted(ip.with_hop_limit(packet, 7)).hop_limit == 7
    assert ip.decode_untrusted(ip.with_ecn(packet, 3)).traffic_class == facts.traffic_class | 3
    assert ip.decode_untrusted(transport.clamp_mss(packet, facts, 1400)) == facts
    source = V4[1] if facts.version == 4 else V6[1]
    if icmp.may_be_told(facts):
        tell(source, packet, facts)
    if icmp.is_echo_request(facts):
        reply = ip.decode_untrusted(icmp.echo_reply(packet, facts))
        assert (reply.source, reply.destination) == (facts.destination, facts.source)
    if facts.version == 4 and not facts.dont_fragment:
        for piece in fragmentation.fragment(packet, facts, 100):
            ip.decode_untrusted(piece)


def rewrite(packet: bytes) -> None:
    facts = ip.decode_untrusted(packet)
    packet = packet[: facts.total_length]
    source, destination = V4_PROVIDER if facts.version == 4 else V6_PROVIDER
    quoted = facts.quoted
    if quoted is not None:
        quoted = msgspec.structs.replace(quoted, source=destination, destination=source)

    changed = rewritten(packet, source, destination, (destination, source))

    assert len(changed) == len(packet)
    assert ip.decode_untrusted(changed) == msgspec.structs.replace(
        facts, source=source, destination=destination, quoted=quoted
    )


def tell(source: bytes, packet: bytes, facts: PacketFacts) -> None:
    for error in (
        icmp.time_exceeded(source, packet, facts),
        icmp.too_big(source, packet, facts, 1400),
        icmp.unreachable(source, packet, facts, icmp.Unreachable.HOST),
    ):
        told = ip.decode_untrusted(error)
        assert icmp.is_error(told)
        assert not icmp.may_be_told(told)
        assert told.quoted is not None
        assert (told.quoted.source, told.quoted.destination) == (facts.source, facts.destination)


def can_be_cut(frame: bytes) -> bool:
    try:
        segmentation.segment(frame, 100)
    except MalformedPacket:
        return False
    return True


def cut(frame: bytes) -> None:
    for segment in segmentation.segment(frame, 100):
        facts = ip.decode_untrusted(segment[ethernet.HEADER_LENGTH :])
        assert facts.total_length == len(segment) - ethernet.HEADER_LENGTH


def solicit(packet: bytes) -> None:
    ndp.decode_solicitation_untrusted(packet, ip.decode_untrusted(packet))


def advertise(packet: bytes) -> None:
    ndp.decode_advertisement_untrusted(packet, ip.decode_untrusted(packet))


def icmpv6_checksum(packet: bytearray) -> None:
    """Put the checksum of neighbour discovery right, where it would be without extension headers."""
    if len(packet) >= 48:
        packet[42:44] = bytes(2)
        ends = bytes(packet[8:24]), bytes(packet[24:40])
        packet[42:44] = transport_checksum(*ends, ICMPV6, packet[40:]).to_bytes(2)


NVGRE = [nvgre.encode(5001, 7) + frame for frame in frames()]
DECODERS = {
    "ethernet": Target(ethernet.decode_untrusted, frames()),
    "nvgre": Target(nvgre.decode_untrusted, NVGRE),
    "arp": Target(arp.decode_untrusted, [frames()[-1][14:]]),
    "ip": Target(carry_on, packets(), ipv4_checksum_at(0)),
    "rewriting": Target(rewrite, rewritable(), ipv4_checksum_at(0)),
    "solicitation": Target(solicit, neighbour_discovery()[:2], icmpv6_checksum),
    "advertisement": Target(advertise, neighbour_discovery()[2:], icmpv6_checksum),
    "router solicitation": Target(solicit_router, router_solicitations(), icmpv6_checksum),
    "dhcp": Target(dhcp_answer, dhcp_messages()),
    "segments": Target(cut, [frame for frame in frames() if can_be_cut(frame)], ipv4_checksum_at(14)),
    "checksum": Target(lambda frame: segmentation.finish_checksum(frame, 34, 16), frames()),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_decode_or_are_malformed(name: str) -> None:
    fuzz(name, DECODERS[name], seed=7637)


@pytest.mark.soak
@pytest.mark.parametrize("name", DECODERS)
def test_any_of_millions_of_bytes_decode_or_are_malformed(name: str) -> None:
    fuzz(name, DECODERS[name], seed=2890)
