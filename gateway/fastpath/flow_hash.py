"""The FlowID as the program computes it: what gateway.packets.transport.flow_id does, octet by octet."""

from __future__ import annotations

import zlib

from gateway.fastpath.layout import FLOW_OCTETS, FLOW_PARTS


def _flow_hash() -> bytes:
    """Return the parts of a FlowID that packets.h adds up: a CRC is linear, but for what zeros give it."""
    parts = bytearray()
    for distance in range(FLOW_OCTETS):
        zeros = bytes(distance)
        nothing = zlib.crc32(bytes(1) + zeros)
        parts += bytes((zlib.crc32(bytes([octet]) + zeros) ^ nothing) & 0xFF for octet in range(FLOW_PARTS))
    return bytes(parts) + bytes((zlib.crc32(bytes(13)) & 0xFF, zlib.crc32(bytes(FLOW_OCTETS)) & 0xFF))


FLOW_HASH = _flow_hash()
