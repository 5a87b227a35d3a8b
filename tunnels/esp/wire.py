"""The layout of ESP in tunnel mode (RFC 4303 section 2)."""

from __future__ import annotations

import struct

from policies.errors import MalformedPacket

HEADER_LENGTH = 8
TRAILER_LENGTH = 2
"""Pad length and next header, behind the padding."""

IPV4 = 4
IPV6 = 41
DUMMY = 59
"""The next header of a packet that only hides how much traffic there is (section 2.6)."""

_HEADER = struct.Struct("!II")
_PADDING = bytes(range(1, 256))
_SHORTEST = {4: 20, 6: 40}
_NEXT_HEADER = {4: IPV4, 6: IPV6}


def decode_header_untrusted(packet: bytes) -> tuple[int, int]:
    """Return the SPI and the low 32 bits of the sequence number. Raises MalformedPacket."""
    if len(packet) < HEADER_LENGTH:
        raise MalformedPacket(f"{len(packet)} octets are too short for an ESP header")
    spi, sequence = _HEADER.unpack_from(packet)
    return spi, sequence


def trailers(alignment: int) -> dict[int, tuple[bytes, ...]]:
    """Make all trailers that fill a packet up to an alignment.

    By the version of the IP packet, and by its length modulo the alignment. The
    padding counts 1, 2, 3 and so on (section 2.4).
    """
    return {
        version: tuple(
            _PADDING[:length] + bytes([length, next_header])
            for length in (-(remainder + TRAILER_LENGTH) % alignment for remainder in range(alignment))
        )
        for version, next_header in _NEXT_HEADER.items()
    }


def decode_payload(payload: bytes) -> bytes | None:
    """Return the IP packet in a decrypted payload, None for a dummy packet.

    What lies between the packet's own end and the padding is traffic flow
    confidentiality padding, and skipped (section 2.7). Raises MalformedPacket.
    """
    if len(payload) < TRAILER_LENGTH:
        raise MalformedPacket(f"{len(payload)} octets are too short for an ESP trailer")
    padding, next_header = payload[-2], payload[-1]
    end = len(payload) - TRAILER_LENGTH - padding
    if end < 0 or payload[end:-2] != _PADDING[:padding]:
        raise MalformedPacket(f"ESP padding of {padding} octets that do not count up from 1")
    if next_header == DUMMY:
        return None
    version = payload[0] >> 4
    if end == 0 or next_header != _NEXT_HEADER.get(version):
        raise MalformedPacket(f"ESP next header {next_header} before a packet of version {version}")
    if end < _SHORTEST[version]:
        raise MalformedPacket(f"{end} octets are too short for an IPv{version} header")
    length = payload[2] << 8 | payload[3] if version == 4 else (payload[4] << 8 | payload[5]) + 40
    if not _SHORTEST[version] <= length <= end:
        raise MalformedPacket(f"IPv{version} packet of {length} octets in {end}")
    return payload[:length]
