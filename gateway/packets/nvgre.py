"""NVGRE: a GRE header whose key says which virtual subnet a frame belongs to (RFC 7637 section 3.2)."""

from __future__ import annotations

import struct

import msgspec

from policies.errors import MalformedPacket

HEADER_LENGTH = 8

_HEADER = struct.Struct("!HHI")  # flags and version, protocol type, key
_KEY_PRESENT = 0x2000
_ETHERNET = 0x6558  # transparent Ethernet bridging

# Flag bits 6-12 are ignored on receipt (RFC 2784 section 2.3). Every other bit
# must match: C and S would make the header longer than the one read here.
_SIGNIFICANT_FLAGS = 0xFC07  # bits 0-5 and the version


class NotNvgre(MalformedPacket):
    """A whole GRE header, but with other flags, another version or another protocol."""


class NvgreHeader(msgspec.Struct, frozen=True, gc=False):
    """The key: whose frame it is, and which of the subnet's flows."""

    vsid: int
    flow_id: int = 0


def encode(vsid: int, flow_id: int = 0) -> bytes:
    """Return the header that goes in front of a frame: a 24-bit VSID and an 8-bit FlowID."""
    return _HEADER.pack(_KEY_PRESENT, _ETHERNET, vsid << 8 | flow_id)


def decode_untrusted(payload: bytes) -> NvgreHeader:
    """Return the header of a GRE packet; its frame begins at `HEADER_LENGTH`.

    Raises NotNvgre where it is GRE of another kind, and MalformedPacket where it is too short to tell.
    Reserved VSIDs are decoded like any other.
    """
    if len(payload) < HEADER_LENGTH:
        raise MalformedPacket(f"{len(payload)} octets are too short for an NVGRE header")
    flags, protocol, key = _HEADER.unpack_from(payload)
    if flags & _SIGNIFICANT_FLAGS != _KEY_PRESENT or protocol != _ETHERNET:
        raise NotNvgre(f"GRE {flags:#06x}/{protocol:#06x} is not NVGRE")
    return NvgreHeader(key >> 8, key & 0xFF)
