"""Neighbour discovery for IPv6 (RFC 4861): who asks for an address or for a router, and the answer."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from gateway.packets import ip
from gateway.packets.checksum import transport_checksum
from policies.addresses import Prefix
from policies.errors import MalformedPacket
from policies.facts import ICMPV6, PacketFacts

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136
REDIRECT = 137
DISCOVERY = range(ROUTER_SOLICITATION, REDIRECT + 1)
"""All types of ICMPv6 that are neighbour discovery's."""

# Only a node on the link can send it: every router on the way would have lowered it.
HOP_LIMIT = 255

_MESSAGE = struct.Struct("!BBHI16s")  # type, code, checksum, flags or reserved, target
# Type, code, checksum; hop limit, flags, lifetime in seconds; reachable and retransmission time in ms.
_ROUTER_MESSAGE = struct.Struct("!BBHBBHII")
# Type, length, prefix length, flags, valid and preferred lifetime in seconds, reserved, prefix.
_PREFIX = struct.Struct("!BBBBII4x16s")
_MTU = struct.Struct("!BBHI")
_CHECKSUM = struct.Struct("!H")
_ROUTER = 1 << 31
_SOLICITED = 1 << 30
_OVERRIDE = 1 << 29

_SOURCE_LINK_LAYER = 1
_TARGET_LINK_LAYER = 2
_PREFIX_INFORMATION = 3
_LINK_MTU = 5

_ON_LINK = 0x80
_FOR_EVER = 0xFFFFFFFF

# What precedes the options of a router solicitation.
_SOLICITATION_LENGTH = 8

_UNSPECIFIED = bytes(16)
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")


class NeighbourSolicitation(msgspec.Struct, frozen=True, gc=False):
    """Who has `target`? From the unspecified source it asks whether anybody has (RFC 4862 section 5.4)."""

    source: bytes
    destination: bytes
    target: bytes
    source_mac: bytes | None

    @property
    def is_probe(self) -> bool:
        """Whether it detects duplicates: the asker wants the address for itself."""
        return self.source == _UNSPECIFIED


class NeighbourAdvertisement(msgspec.Struct, frozen=True, gc=False):
    """`target` is at `target_mac`."""

    source: bytes
    destination: bytes
    target: bytes
    target_mac: bytes | None
    router: bool
    solicited: bool
    override: bool


def solicited_node(address: bytes) -> bytes:
    """Return the group that whoever has `address` listens to (RFC 4291 section 2.7.1)."""
    return _SOLICITED_NODE + address[13:]


def decode_solicitation_untrusted(packet: bytes, facts: PacketFacts) -> NeighbourSolicitation:
    """Read a solicitation that passes every check of RFC 4861 section 7.1.1; else MalformedPacket."""
    target, _, source_mac = _decode(packet, facts, NEIGHBOUR_SOLICITATION, _SOURCE_LINK_LAYER)
    if facts.source == _UNSPECIFIED:
        if not facts.destination.startswith(_SOLICITED_NODE):
            raise MalformedPacket("a probe for a neighbour that is not sent to a solicited-node group")
        if source_mac is not None:
            raise MalformedPacket("a probe for a neighbour that names a source MAC")
    return NeighbourSolicitation(facts.source, facts.destination, target, source_mac)


def decode_advertisement_untrusted(packet: bytes, facts: PacketFacts) -> NeighbourAdvertisement:
    """Read an advertisement that passes every check of RFC 4861 section 7.1.2; else MalformedPacket."""
    target, flags, target_mac = _decode(packet, facts, NEIGHBOUR_ADVERTISEMENT, _TARGET_LINK_LAYER)
    solicited = flags & _SOLICITED != 0
    if solicited and facts.destination[0] == 0xFF:
        raise MalformedPacket("an advertisement to a group that says it was asked for")
    return NeighbourAdvertisement(
        facts.source,
        facts.destination,
        target,
        target_mac,
        router=flags & _ROUTER != 0,
        solicited=solicited,
        override=flags & _OVERRIDE != 0,
    )


def encode_solicitation(source: bytes, destination: bytes, target: bytes, source_mac: bytes | None) -> bytes:
    """Return a whole IPv6 packet that asks for `target`."""
    option = b"" if source_mac is None else bytes([_SOURCE_LINK_LAYER, 1]) + source_mac
    return _build(source, destination, _MESSAGE.pack(NEIGHBOUR_SOLICITATION, 0, 0, 0, target) + option)


def advertisement(
    source: bytes,
    destination: bytes,
    target: bytes,
    mac: bytes,
    *,
    router: bool,
    solicited: bool,
    override: bool = True,
) -> bytes:
    """Return a whole IPv6 packet that says `target` is at `mac`.

    A probe is answered to all nodes (ff02::1) and not as solicited (RFC 4861 section 7.2.4).
    """
    flags = (_ROUTER if router else 0) | (_SOLICITED if solicited else 0) | (_OVERRIDE if override else 0)
    message = _MESSAGE.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, flags, target)
    return _build(source, destination, message + bytes([_TARGET_LINK_LAYER, 1]) + mac)


def check_router_solicitation_untrusted(packet: bytes, facts: PacketFacts) -> None:
    """Raise MalformedPacket unless a solicitation passes every check of RFC 4861 section 6.1.1."""
    message = _check(packet, facts, ROUTER_SOLICITATION, _SOLICITATION_LENGTH)
    source_mac = _find_link_layer_address(message, _SOLICITATION_LENGTH, _SOURCE_LINK_LAYER)
    if facts.source == _UNSPECIFIED and source_mac is not None:
        raise MalformedPacket("a router solicitation from nobody that names a source MAC")


def router_advertisement(
    source: bytes,
    destination: bytes,
    mac: bytes,
    prefixes: Iterable[Prefix],
    *,
    mtu: int,
    lifetime: int,
    hop_limit: int = 64,
) -> bytes:
    """Return a whole IPv6 packet that offers a router (RFC 4861 section 4.2): `lifetime` is in seconds.

    The prefixes are on the link for ever, and not for making addresses of one's own from.
    """
    message = _ROUTER_MESSAGE.pack(ROUTER_ADVERTISEMENT, 0, 0, hop_limit, 0, lifetime, 0, 0)
    message += bytes([_SOURCE_LINK_LAYER, 1]) + mac
    message += _MTU.pack(_LINK_MTU, 1, 0, mtu)
    for prefix in prefixes:
        octets = prefix.network_address.packed
        message += _PREFIX.pack(
            _PREFIX_INFORMATION, 4, prefix.prefixlen, _ON_LINK, _FOR_EVER, _FOR_EVER, octets
        )
    return _build(source, destination, message)


def _build(source: bytes, destination: bytes, message: bytes) -> bytes:
    checksum = transport_checksum(source, destination, ICMPV6, message)
    message = message[:2] + _CHECKSUM.pack(checksum) + message[4:]
    return ip.build(source, destination, ICMPV6, message, hop_limit=HOP_LIMIT)


def _decode(
    packet: bytes, facts: PacketFacts, icmp_type: int, wanted_option: int
) -> tuple[bytes, int, bytes | None]:
    """Return target, flags, and the MAC in the wanted option."""
    message = _check(packet, facts, icmp_type, _MESSAGE.size)
    *_, flags, target = _MESSAGE.unpack_from(message)
    if target[0] == 0xFF:
        raise MalformedPacket("neighbour discovery for a group")
    return target, flags, _find_link_layer_address(message, _MESSAGE.size, wanted_option)


def _check(packet: bytes, facts: PacketFacts, icmp_type: int, shortest: int) -> bytes:
    """Return the ICMPv6 message, if it is what any node takes for neighbour discovery."""
    if facts.protocol != ICMPV6 or facts.icmp_type != icmp_type:
        raise MalformedPacket(f"not an ICMPv6 message of type {icmp_type}")
    if facts.is_fragment:
        raise MalformedPacket("a fragmented neighbour discovery message")  # RFC 6980 section 5
    if facts.hop_limit != HOP_LIMIT:
        raise MalformedPacket(f"neighbour discovery with hop limit {facts.hop_limit}, from beyond the link")
    message = packet[facts.header_length : facts.total_length]
    if len(message) < shortest:
        raise MalformedPacket(f"{len(message)} octets are too short for neighbour discovery")
    if message[1] != 0:
        raise MalformedPacket(f"neighbour discovery with code {message[1]}")
    if transport_checksum(facts.source, facts.destination, ICMPV6, message) != 0:
        raise MalformedPacket("neighbour discovery with a wrong checksum")
    return message


def _find_link_layer_address(message: bytes, position: int, wanted: int) -> bytes | None:
    """Walk all options, since one of length 0 anywhere makes the message invalid, and return a MAC."""
    mac = None
    while position < len(message):
        if position + 2 > len(message):
            raise MalformedPacket("a neighbour discovery option is cut off")
        kind, length = message[position], message[position + 1] * 8
        if length == 0 or position + length > len(message):
            raise MalformedPacket(f"neighbour discovery option {kind} of {length} octets")
        if kind == wanted:
            if length != 8:
                raise MalformedPacket(f"a link-layer address option of {length} octets holds no MAC")
            mac = message[position + 2 : position + 8]
        position += length
    return mac
