"""Ethernet headers; an encapsulated frame carries no check sequence (RFC 7637 section 3.2)."""

from __future__ import annotations

import struct

import msgspec

from policies.errors import MalformedPacket

IPV4 = 0x0800
ARP = 0x0806
RARP = 0x8035
IPV6 = 0x86DD
VLAN = 0x8100
QINQ = 0x88A8

# The ethertype of each version of IP.
OF_IP_VERSION = {4: IPV4, 6: IPV6}

HEADER_LENGTH = 14

_HEADER = struct.Struct("!6s6sH")  # destination, source, type of the payload


class EthernetHeader(msgspec.Struct, frozen=True, gc=False):
    """The addresses of a frame and what it carries; of a tagged frame, the tag's type."""

    destination: bytes
    source: bytes
    ethertype: int

    def encode(self) -> bytes:
        return _HEADER.pack(self.destination, self.source, self.ethertype)


def decode_untrusted(frame: bytes) -> EthernetHeader:
    """Return the header of a frame; its payload begins at `HEADER_LENGTH`. Raises MalformedPacket."""
    if len(frame) < HEADER_LENGTH:
        raise MalformedPacket(f"{len(frame)} octets are too short for an Ethernet header")
    return EthernetHeader(*_HEADER.unpack_from(frame))
