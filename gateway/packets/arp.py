"""ARP for IPv4 over Ethernet (RFC 826), and RARP, which has the same format (RFC 903)."""

from __future__ import annotations

import struct

import msgspec

from policies.errors import MalformedPacket

REQUEST = 1
REPLY = 2
REVERSE_REQUEST = 3

# Hardware type, protocol type, lengths of their addresses, operation, sender, target.
_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_AND_IPV4 = (1, 0x0800, 6, 4)

LENGTH = _PACKET.size


class ArpPacket(msgspec.Struct, frozen=True, gc=False):
    """A request for, or a statement of, the MAC of an IPv4 address."""

    operation: int
    sender_mac: bytes
    sender_address: bytes
    target_mac: bytes
    target_address: bytes

    def encode(self) -> bytes:
        """Return the 28 octets that follow the Ethernet header."""
        return _PACKET.pack(
            *_ETHERNET_AND_IPV4,
            self.operation,
            self.sender_mac,
            self.sender_address,
            self.target_mac,
            self.target_address,
        )


def decode_untrusted(payload: bytes) -> ArpPacket:
    """Return the packet behind an Ethernet header, with any operation.

    What follows the 28 octets is Ethernet padding. Raises MalformedPacket, also for other
    hardware or protocols.
    """
    if len(payload) < _PACKET.size:
        raise MalformedPacket(f"{len(payload)} octets are too short for an ARP packet")
    *kind, operation, sender_mac, sender_address, target_mac, target_address = _PACKET.unpack_from(payload)
    if tuple(kind) != _ETHERNET_AND_IPV4:
        raise MalformedPacket(f"ARP for {kind} is not for IPv4 over Ethernet")
    return ArpPacket(operation, sender_mac, sender_address, target_mac, target_address)
