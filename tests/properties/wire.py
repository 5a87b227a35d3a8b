"""Frames on the underlay's wire, on their way into a gateway: whole ones, and damaged ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from gateway.forwarding.verdicts import OuterHeader
from gateway.packets import ip, nvgre
from gateway.packets.ethernet import IPV4, IPV6, EthernetHeader
from policies.addresses import MacAddress
from tests.fastpath.scenes import OWN_MACS
from tests.fuzz.mutation import ipv4_checksum_at, mutations

INTERFACE = "eth1"
"""Where they come in."""

_INNER = nvgre.HEADER_LENGTH + 14
_THEIR_MAC = MacAddress(b"\x02\xbb\0\0\0\1")


def on_the_wire(outer: OuterHeader, payload: bytes, padding: int = 0) -> bytes:
    """The frame in which a peer sends a payload of protocol 47: lengths and checksum are right."""
    mac = MacAddress(OWN_MACS[INTERFACE])
    if len(outer.source) == 4:
        header = EthernetHeader(mac, _THEIR_MAC, IPV4).encode() + ip.ipv4_header(
            outer.source, outer.destination, 47, len(payload), ttl=outer.hop_limit, traffic_class=outer.ecn
        )
    else:
        header = EthernetHeader(mac, _THEIR_MAC, IPV6).encode() + ip.ipv6_header(
            outer.source,
            outer.destination,
            47,
            len(payload),
            hop_limit=outer.hop_limit,
            traffic_class=outer.ecn,
        )
    return header + payload + bytes(padding)


def damaged(chance: random.Random, outer: OuterHeader, payload: bytes) -> bytes:
    """The frame of such a payload with one layer changed; what is in front of that is right."""
    layer = chance.random()
    if layer < 0.2:
        frame = on_the_wire(outer, payload)
        return next(mutations([frame], chance.getrandbits(32), 1, ipv4_checksum_at(14)))
    if layer < 0.4:
        head, rest = payload[:_INNER], payload[_INNER:]
        return on_the_wire(outer, _mutated(chance, head) + rest)
    if layer < 0.6:
        inner = _mutated(chance, payload[_INNER:], ipv4_checksum_at(0))
        return on_the_wire(outer, payload[:_INNER] + inner)
    packet = bytearray(payload[_INNER:])
    for _ in range(chance.choice((1, 1, 2))):
        _change_field(chance, packet)
    if packet[0] >> 4 == 4 and chance.random() < 0.9:
        ipv4_checksum_at(0)(packet)
    return on_the_wire(outer, payload[:_INNER] + packet)


def _mutated(chance: random.Random, data: bytes, repair: Callable[[bytearray], None] | None = None) -> bytes:
    return next(mutations([data], chance.getrandbits(32), 1, repair))


def _change_field(chance: random.Random, packet: bytearray) -> None:
    """Give one field of a packet, or of what it carries, a value near what it has, or an extreme one."""
    is_ipv4 = packet[0] >> 4 == 4
    upper = 20 if is_ipv4 else 40
    octets = (0, 1, 8, 9) if is_ipv4 else (0, 1, 6, 7)
    words = (2, 4, 6, 10) if is_ipv4 else (2, 4)
    upper_octets = tuple(upper + number for number in (0, 1, 12, 13))
    upper_words = tuple(upper + number for number in (0, 2, 4, 6, 16, 20, 22))
    at = chance.choice(octets + upper_octets + words + upper_words)
    wide = at in words + upper_words
    if at + 1 + wide > len(packet):
        return
    size = 2 if wide else 1
    highest = (1 << 8 * size) - 1
    value = int.from_bytes(packet[at : at + size])
    value = chance.choice(
        (
            value + chance.choice((-8, -1, 1, 8)),
            len(packet) + chance.randint(-2, 2),
            chance.choice((0, 1, highest, highest >> 1, highest - 1)),
            value ^ 1 << chance.randrange(8 * size),
        )
    )
    packet[at : at + size] = (value & highest).to_bytes(size)
